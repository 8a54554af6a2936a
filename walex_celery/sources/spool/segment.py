"""Segments: the files of the log, each of bounded size, read and written at offsets.

A file is a magic and a version, then records (``record.py``), the first of them the header. It is made under
another name, written to disk and renamed, so that a segment without its header is never found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final

from walex_celery._files import UnsafePath, open_private, sync_folder
from walex_celery.errors import SpoolError
from walex_celery.sources.spool.record import (
    HEAD_BYTES,
    BadRecord,
    Header,
    Record,
    encode_header,
    parse,
    record_bytes,
)

SUFFIX: Final = ".spool"
_UNFINISHED: Final = ".tmp"
_PREAMBLE: Final = Struct(">8sH")
_MAGIC: Final = b"WalExSpl"
_VERSION: Final = 1
#: Records are read from the file so many bytes at a time; a larger one is read whole.
_WINDOW: Final = 256 * 1024


def path_of(folder: Path, number: int) -> Path:
    """The file of a segment."""
    return folder / f"{number:020}{SUFFIX}"


def numbers_in(folder: Path) -> list[int]:
    """The numbers of the segments in *folder*, in order; what a crash left half made is removed.

    Raises:
        SpoolError: one is missing among them.
    """
    for unfinished in folder.glob(f"*{SUFFIX}{_UNFINISHED}"):
        unfinished.unlink()
    numbers = sorted(int(path.stem) for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())
    if numbers and numbers != list(range(numbers[0], numbers[-1] + 1)):
        missing = next(number for number in range(numbers[0], numbers[-1]) if number not in numbers)
        raise _missing(path_of(folder, missing))
    return numbers


def _missing(path: Path) -> SpoolError:
    return SpoolError(f"{path} is missing: see 'A damaged spool' in docs/operations/spool.md")


class Segment:
    """An open segment."""

    def __init__(self, path: Path, descriptor: int, header: Header, first: int, size: int) -> None:
        self.path = path
        self.header = header
        #: The offset of its first record of messages.
        self.first = first
        #: Where the next record will begin.
        self.size = size
        self._descriptor = descriptor

    @property
    def number(self) -> int:
        """Segments are numbered from 1."""
        return self.header.number

    @classmethod
    def create(cls, folder: Path, header: Header) -> Segment:
        """A new segment, its header on disk.

        Raises:
            OSError: and there is no such segment.
        """
        path = path_of(folder, header.number)
        unfinished = path.with_name(path.name + _UNFINISHED)
        start = _PREAMBLE.pack(_MAGIC, _VERSION) + encode_header(header)
        # One that a crash left, if any: a file that exists is not written to.
        unfinished.unlink(missing_ok=True)
        descriptor = open_private(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            _write(descriptor, [start], 0)
            os.fsync(descriptor)
            unfinished.rename(path)
            sync_folder(folder)
        except OSError:
            os.close(descriptor)
            unfinished.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
        return cls(path, descriptor, header, len(start), len(start))

    @classmethod
    def open(cls, folder: Path, number: int) -> Segment:
        """The segment with this number.

        Raises:
            SpoolError: it has no good header, is of another version, or is not this user's own file.
        """
        path = path_of(folder, number)
        try:
            descriptor = open_private(path, os.O_RDWR)
        except FileNotFoundError:
            raise _missing(path) from None
        except UnsafePath as error:
            raise SpoolError(f"the spool is not read: {error.strerror}") from error
        try:
            size = os.fstat(descriptor).st_size
            if size < _PREAMBLE.size:
                raise damaged(path, size, "the file has been cut short")
            magic, version = _PREAMBLE.unpack(os.pread(descriptor, _PREAMBLE.size, 0))
            if magic != _MAGIC:
                raise damaged(path, 0, "not a segment of a spool")
            if version != _VERSION:
                raise SpoolError(
                    f"{path} is of version {version} of the spool's format, and this walex-celery reads {_VERSION}: "
                    "let the one that wrote it empty it"
                )
            try:
                record = next(_records(descriptor, _PREAMBLE.size, size), None)
                if record is None:
                    raise BadRecord("no header")
                header = record[1].header()
            except BadRecord as error:
                raise damaged(path, _PREAMBLE.size, str(error)) from error
            if header.number != number:
                raise damaged(path, _PREAMBLE.size, f"it is the segment number {header.number}")
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, header, _PREAMBLE.size + record[1].size, size)

    @property
    def file_bytes(self) -> int:
        """The size of the file, which another may have written to."""
        return os.fstat(self._descriptor).st_size

    def write(self, records: list[tuple[bytes, bytes]]) -> None:
        """Append *records*, heads and bodies, all of them or none.

        Raises:
            OSError: none.
        """
        parts = [part for record in records for part in record]
        try:
            _write(self._descriptor, parts, self.size)
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += sum(map(len, parts))

    def records(self, at: int, end: int) -> Iterator[tuple[int, Record]]:
        """The records from offset *at* on, up to offset *end*, each with its offset.

        Raises:
            BadRecord: after the good ones.
        """
        return _records(self._descriptor, at, end)

    def truncate(self, size: int) -> None:
        """Forget what stands at *size* and after it."""
        os.ftruncate(self._descriptor, size)
        self.size = size

    def sync(self) -> None:
        """Have all that was written on the disk."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def damaged(path: Path, offset: int, what: str) -> SpoolError:
    """The error for a segment that has been altered."""
    return SpoolError(
        f"{path} is damaged at offset {offset}: {what}. it has been acknowledged, so Postgres has forgotten it: "
        "see 'A damaged spool' in docs/operations/spool.md"
    )


def _write(descriptor: int, parts: list[bytes], offset: int) -> None:
    """Write *parts* one after the other; the kernel may take them in several pieces."""
    total = sum(map(len, parts))
    written = os.pwritev(descriptor, parts, offset)
    if written < total:
        left = memoryview(b"".join(parts))[written:]
        while left:
            count = os.pwrite(descriptor, left, offset + total - len(left))
            left = left[count:]


def _records(descriptor: int, at: int, end: int) -> Iterator[tuple[int, Record]]:
    # A trickle is stored as many small records: reading them one by one would cost more than handling them.
    buffer, base = b"", at
    while at < end:
        inside = at - base
        have = len(buffer) - inside
        if have < HEAD_BYTES or have < record_bytes(buffer, inside):
            wanted = record_bytes(buffer, inside) if have >= HEAD_BYTES else 0
            buffer, base, inside = _read(descriptor, at, min(max(wanted, _WINDOW), end - at)), at, 0
            if HEAD_BYTES <= len(buffer) < record_bytes(buffer, 0):
                buffer = _read(descriptor, at, min(record_bytes(buffer, 0), end - at))
        record = parse(buffer, inside)
        yield at, record
        at += record.size


def _read(descriptor: int, at: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.pread(descriptor, count, at)
        if not part:
            break
        parts.append(part)
        at += len(part)
        count -= len(part)
    return b"".join(parts)
