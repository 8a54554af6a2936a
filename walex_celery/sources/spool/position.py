"""Where the log stands: what is done, and what has been acknowledged. A file that survives anything."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from walex_celery._files import open_private, sync_folder

_NAME: Final = "position"
_VALUES: Final = Struct(">8sQQQIQQQ")
_CRC: Final = Struct(">I")
_MAGIC: Final = b"WalExSp1"
#: Two copies, in sectors of their own, are written in turn: a torn one leaves the other.
_COPY_BYTES: Final = 512


class Position(NamedTuple):
    """A place in the log: before the record at *offset* of a segment, or after *skip* messages of that record."""

    segment: int
    offset: int
    skip: int = 0


class Positions(NamedTuple):
    """What is known of a log besides its records.

    Attributes:
        consumed: everything before it has been processed and confirmed.
        stored: everything before it was on the disk before it was acknowledged.
        acknowledged_lsn: what was acknowledged.
    """

    consumed: Position
    stored: Position
    acknowledged_lsn: int


class PositionFile:
    """Keeps :class:`Positions`; written in place, so that it takes no room when the disk is full.

    It is not written through to the disk each time: a process that is killed loses nothing of it, a host that loses
    its power leaves an older one, and then some tasks are sent again, with their ids.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / _NAME
        self._descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        if not os.fstat(self._descriptor).st_size:
            os.pwrite(self._descriptor, bytes(2 * _COPY_BYTES), 0)
            os.fsync(self._descriptor)
            sync_folder(folder)
        copies = [copy for at in (0, _COPY_BYTES) if (copy := self._read(at)) is not None]
        newest = max(copies, key=lambda copy: copy[0], default=None)
        self._serial = newest[0] if newest else 0
        #: What was kept by the last process, if any was.
        self.found = newest[1] if newest else None

    def _read(self, at: int) -> tuple[int, Positions] | None:
        data = os.pread(self._descriptor, _VALUES.size + _CRC.size, at)
        if len(data) < _VALUES.size + _CRC.size:
            return None
        values, crc = data[: _VALUES.size], data[_VALUES.size :]
        magic, serial, *numbers = _VALUES.unpack(values)
        if magic != _MAGIC or _CRC.unpack(crc) != (zlib.crc32(values),):
            return None
        consumed, stored = Position(*numbers[:3]), Position(*numbers[3:5])
        return serial, Positions(consumed, stored, numbers[5])

    def write(self, positions: Positions) -> None:
        """Keep *positions* instead of those before."""
        self._serial += 1
        consumed, stored, lsn = positions
        values = _VALUES.pack(_MAGIC, self._serial, *consumed, stored.segment, stored.offset, lsn)
        os.pwrite(self._descriptor, values + _CRC.pack(zlib.crc32(values)), self._serial % 2 * _COPY_BYTES)

    def sync(self) -> None:
        """Have it on the disk."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
