"""A spool's name for itself, made with it: what is said of one spool elsewhere is not taken for another's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from uuid import uuid4

from walex_celery._files import open_private, sync_folder

_NAME: Final = "identity"


def identity_of(folder: Path) -> str:
    """The identity of the spool in *folder*, which the caller has locked.

    Raises:
        OSError: it can't be read or written.
    """
    path = folder / _NAME
    text = _read(path)
    if not text:
        text = uuid4().hex
        written = path.with_suffix(".new")
        # A crash may have left one.
        written.unlink(missing_ok=True)
        with open(open_private(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)
        sync_folder(folder)
    return text


def _read(path: Path) -> str:
    try:
        descriptor = open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    with open(descriptor, encoding="ascii") as file:
        return file.read().strip()
