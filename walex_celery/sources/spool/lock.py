"""One instance, one spool: the lock on its folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from walex_celery._files import open_private
from walex_celery.errors import SlotInUse

_NAME: Final = "lock"


class FolderLock:
    """Holds a folder against every other producer of this host, in this process too.

    The lock is the kernel's (flock), so it is gone with the process, however that ends.

    Raises:
        SlotInUse: another producer holds it.
        OSError: the folder can't be used.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = open_private(folder / _NAME, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise SlotInUse(
                f"the spool in {folder} is in use by the producer with process id {holder}. Stop it, start this one "
                "with --standby to wait for it, or give this instance a folder of its own"
            ) from None
        except OSError:
            os.close(self._descriptor)
            raise
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)
