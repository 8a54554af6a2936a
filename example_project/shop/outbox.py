"""Emails as files in a folder: written atomically, and never two for the same task."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def outbox() -> Path:
    """The folder of sent emails."""
    return Path(os.environ.get("SHOP_OUTBOX", "outbox"))


def send(task_id: str, kind: str, recipient: str, text: str) -> Path:
    """Send an email, unless this task has sent it before."""
    folder = outbox() / kind
    folder.mkdir(parents=True, exist_ok=True)
    email = folder / f"{task_id}.eml"
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".", encoding="utf-8") as draft:
        draft.write(f"To: {recipient}\nMessage-ID: <{task_id}@shop>\n\n{text}\n")
        draft.flush()
        # Linking is atomic, and fails if the name is taken: the first delivery wins.
        with suppress(FileExistsError):
            os.link(draft.name, email)
    return email
