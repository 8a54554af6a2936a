"""Room that is kept for when the disk is full: a segment can only be removed after the next one is made."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

_NAME: Final = "reserve"


class Reserve:
    """A file that takes room in *folder*; whoever needs that room gives the file up."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        #: Bytes that it takes.
        self.size = self._path.stat().st_size if self._path.exists() else 0

    def keep(self, size: int) -> None:
        """Take *size* bytes, or as many of them as there is room for."""
        if self.size >= size:
            return
        with suppress(OSError), self._path.open("ab", buffering=0) as file:
            # Not truncate(): a hole takes no room. A disk that is nearly full may take less than it was given.
            while self.size < size and (written := file.write(bytes(size - self.size))):
                self.size += written

    def release(self) -> None:
        """Give it up."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
            self.size = 0
