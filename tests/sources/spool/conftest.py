"""Fixtures of the spool's tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def crash_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the spool that ``tests/support/crash_app.py`` uses then."""
    folder = tmp_path / "spool"
    monkeypatch.setenv("SPOOL_FOLDER", str(folder))
    monkeypatch.setenv("WALEX_MESSAGE_MIDDLEWARE", "crash_spool.spool")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return folder


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting takes root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
