"""A spool's name for itself, made with it: what is said of one spool elsewhere is not taken for another's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from uuid import uuid4

from walex_celery.sources.spool.segment import sync_folder

_NAME: Final = "identity"


def identity_of(folder: Path) -> str:
    """The identity of the spool in *folder*, which the caller has locked.

    Raises:
        OSError: it can't be read or written.
    """
    path = folder / _NAME
    text = path.read_text("ascii").strip() if path.exists() else ""
    if not text:
        text = uuid4().hex
        written = path.with_suffix(".new")
        with written.open("w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)
        sync_folder(folder)
    return text
