"""Room that is kept for when the disk is full: a segment can only be removed after the next one is made."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from walex_celery._files import check_private, open_private

_NAME: Final = "reserve"


class Reserve:
    """A file that reserves room in *folder*, to be given up when that room is needed.

    Raises:
        OSError: there is something else in its place.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        found = check_private(self._path)
        #: Bytes that it takes.
        self.size = found.st_size if found else 0

    def keep(self, size: int) -> None:
        """Take *size* bytes, or as many of them as there is room for."""
        if self.size >= size:
            return
        with suppress(OSError):
            descriptor = open_private(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                # Not ftruncate: a hole takes no room. A disk that is nearly full may take less than it was given.
                while self.size < size:
                    self.size += os.write(descriptor, bytes(size - self.size))
            finally:
                os.close(descriptor)

    def release(self) -> None:
        """Give it up."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
            self.size = 0
