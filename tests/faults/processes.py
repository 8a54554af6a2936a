"""Producers and workers as processes: started, killed, paused and watched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


class EndedByItself(AssertionError):
    """A process ended by itself."""


class Managed:
    """A ``celery`` command that is started again and again; its output of all times is in one file.

    Attributes:
        starts: how often it was started.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.starts = 0
        self.log = folder / f"{name.replace(' ', '-')}.log"
        self._arguments = list(arguments)
        self._environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it if it does not run."""
        if self._process is not None:
            return
        self.starts += 1
        with self.log.open("ab") as log:
            log.write(f"--- start {self.starts}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tests.faults.app", *self._arguments],
                env=self._environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def has_spoken(self) -> bool:
        """Whether the process that runs now has written anything: before that it can't yet end in order."""
        return not self.log.read_text(errors="replace").endswith(f"--- start {self.starts}\n")

    def check(self) -> None:
        """Raise :class:`EndedByItself` if it should run and does not."""
        if self._process is not None and self._process.poll() is not None:
            code = self._process.returncode
            self._process = None
            raise EndedByItself(f"{self.name} ended by itself with {code}; it said last:\n{self.tail()}")

    def kill(self) -> None:
        """End it and its children by SIGKILL."""
        self.check()
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop it, with its children, where it is."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def end(self, timeout: float = 60) -> int | None:
        """Ask it to end by SIGTERM; returns the exit code, ``None`` if it had to be killed."""
        process = self._process
        if process is None:
            return 0
        process.terminate()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._process = None
        return code

    def close(self) -> None:
        """End it whatever it does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def tail(self, lines: int = 40) -> str:
        """The end of what it wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Footprint(threading.Thread):
    """Watches how much memory and how many open files processes have, until :meth:`stop`.

    Attributes:
        rss_kib: the most that one had resident, in KiB.
        open_files: the most that one had open.
    """

    def __init__(self, processes: Sequence[Managed]) -> None:
        super().__init__(name="footprint", daemon=True)
        self._processes = processes
        self._stop_asked = threading.Event()
        self.rss_kib = 0
        self.open_files = 0

    def run(self) -> None:
        while not self._stop_asked.wait(0.5):
            for process in self._processes:
                with suppress(OSError, StopIteration, ValueError):
                    self._look(Path("/proc") / str(process.pid))

    def _look(self, folder: Path) -> None:
        status = (folder / "status").read_text().splitlines()
        peak = next(line for line in status if line.startswith("VmHWM:"))
        self.rss_kib = max(self.rss_kib, int(peak.split()[1]))
        self.open_files = max(self.open_files, len(list((folder / "fd").iterdir())))

    def stop(self) -> None:
        """End."""
        self._stop_asked.set()
        self.join()
