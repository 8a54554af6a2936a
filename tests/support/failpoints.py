"""Producers that end or wait at a failpoint of :mod:`walex_celery._failpoints`."""

from __future__ import annotations

import signal
from pathlib import Path
from subprocess import Popen

from tests.support import wait_until
from walex_celery._failpoints import Name

#: Seconds for a process to start on a busy machine, and to get to a failpoint.
REACHED_SECONDS = 120


def armed(name: Name, action: str = "kill", *, turn: int = 1, file: Path | None = None) -> str:
    """What ``WALEX_FAILPOINTS`` says for one place."""
    return f"{name}={action}@{turn}" + (f":{file}" if file is not None else "")


def killed_at(process: Popen[bytes], name: Name, log: Path) -> None:
    """Wait until *process* was killed at its failpoint."""
    wait_until(lambda: process.poll() is not None, REACHED_SECONDS, f"killed at {name}")
    assert process.returncode == -signal.SIGKILL, log.read_text()
    assert f"failpoint {name}: kill" in log.read_text()


class Pause:
    """A failpoint at which a thread of a producer waits, until :meth:`end`.

    Args:
        name: of the failpoint.
        file: made by the producer when it gets there.
        turn: the time at which it waits.
    """

    def __init__(self, name: Name, file: Path, *, turn: int = 1) -> None:
        self.name, self.turn, self._file = name, turn, file

    def __str__(self) -> str:
        return armed(self.name, "pause", turn=self.turn, file=self._file)

    def wait(self) -> None:
        """Until the producer is there."""
        wait_until(self._file.exists, REACHED_SECONDS, f"paused at {self.name}")

    def end(self) -> None:
        """Let it go on."""
        self._file.unlink()
