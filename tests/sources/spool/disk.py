"""A folder whose power can fail: what was not synced is gone then, which kill -9 can't show.

What POSIX promises, and no more: fsync and fdatasync of a file keep its bytes and size, fsync of a folder keeps its
names. What was not synced may be there after a power failure, or not.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Disk:
    """Watches what is synced in *folder*, and knows what a power failure would leave of it.

    Args:
        folder: exists, and is empty.
        step: called before and after each sync, rename and removal, with what it is.
    """

    def __init__(self, folder: Path, step: Callable[[str, Path], None] | None = None) -> None:
        self.folder = folder
        self.step = step or (lambda what, path: None)
        self._bytes: dict[int, bytes] = {}
        self._names: dict[str, int] = {}
        # So that the number of a file that is removed is not given to another.
        self._held: dict[int, int] = {}

    def _current(self) -> dict[str, int]:
        return {entry.name: entry.inode() for entry in os.scandir(self.folder)}

    def hold(self, descriptor: int) -> None:
        """Note that *descriptor* is of a file in the folder."""
        number = os.fstat(descriptor).st_ino
        if number not in self._held:
            self._held[number] = os.dup(descriptor)

    def synced(self, descriptor: int) -> None:
        """Note that *descriptor* has been synced."""
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            self._names = self._current()
        else:
            self._bytes[found.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def after_power_failure(self, target: Path, *, names_kept: bool) -> Path:
        """What would be left, in *target*.

        Args:
            target: is replaced.
            names_kept: files that were made, renamed or removed since are so on the disk; otherwise as they were when
                the folder was last synced.
        """
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for name, number in (self._current() if names_kept else self._names).items():
            (target / name).write_bytes(self._bytes.get(number, b""))
        return target

    def close(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)


@contextmanager
def watching(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What this process does to files of *disk* is noticed by it; it is all done, too."""
    real = {name: getattr(os, name) for name in ("open", "fsync", "fdatasync", "rename", "replace", "unlink")}

    def is_in(path: Any) -> bool:
        return isinstance(path, str | Path) and (
            Path(path) == disk.folder or Path(path).parent == disk.folder
        )

    def opening(path: Any, *arguments: Any, **keywords: Any) -> int:
        descriptor: int = real["open"](path, *arguments, **keywords)
        if is_in(path):
            disk.hold(descriptor)
        return descriptor

    def syncing(name: str) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if not is_in(path):
                real[name](descriptor)
                return
            disk.step(f"before {name}", path)
            real[name](descriptor)
            disk.synced(descriptor)
            disk.step(name, path)

        return sync

    def moving(name: str) -> Callable[..., None]:
        def move(path: Any, *arguments: Any, **keywords: Any) -> None:
            if is_in(path):
                disk.step(f"before {name}", Path(path))
            real[name](path, *arguments, **keywords)
            if is_in(path):
                disk.step(name, Path(path))

        return move

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", opening)
        for name in ("fsync", "fdatasync"):
            patched.setattr(os, name, syncing(name))
        for name in ("rename", "replace", "unlink"):
            patched.setattr(os, name, moving(name))
        try:
            yield
        finally:
            disk.close()
