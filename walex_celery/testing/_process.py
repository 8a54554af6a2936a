"""A server as a child process: started, waited for, stopped by its pid, and never left behind."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, ClassVar, Literal, Self

from walex_celery._files import open_private
from walex_celery.testing._system import ServerUnavailable, free_port, processes_in

StopMode = Literal["fast", "immediate"]

# Runs beside each server and reads a pipe that only its parent has open for writing. When the parent dies, it stops
# the server's process group and removes its folder. (PR_SET_PDEATHSIG would act when the *thread* that started the
# server ends, and only on Linux.)
_GUARD = """
trap '' HUP INT TERM
read -r _
kill -"$1" "$2" 2>/dev/null
n=0
while kill -0 "$2" 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
kill -KILL -- -"$2" 2>/dev/null
rm -rf -- "$3"
"""


def _remove(folder: Path, owner: int) -> None:
    # A forked child that exits through Python's exit handlers must not stop its parent's servers.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


class Server(ABC):
    """A real server with its own temporary folder and port, the same across restarts; a context manager.

    Entering starts it; leaving stops it and removes its folder. If the process that started it dies in any way, the
    server is stopped too.
    """

    #: What the server is called in errors.
    name: ClassVar[str]
    #: Signals for :meth:`stop`, by mode.
    stop_signals: ClassVar[Mapping[StopMode, signal.Signals]]
    #: Seconds that a start or a stop may take.
    deadline_seconds: ClassVar[float] = 60.0

    def __init__(self, *, user: str | None = None) -> None:
        self.user = user
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"walex-{self.name.lower()}-"))
        self._own(self.folder)
        self._remove_folder = weakref.finalize(self, _remove, self.folder, os.getpid())
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    # -- what differs from server to server --------------------------------------------------------

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Return the command that runs the server in the foreground."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether the server accepts connections; called until it does."""

    @abstractmethod
    def prepare(self) -> None:
        """Create what the first start needs (data folder, configuration)."""

    def environment(self) -> dict[str, str]:
        """Return the server's complete environment; it inherits nothing else."""
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(self.folder)}

    # -- what is the same for all ------------------------------------------------------------------

    @property
    def log_path(self) -> Path:
        """The file with the server's output, from all its starts."""
        return self.folder / "server.log"

    def log(self) -> str:
        """Return the server's output so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def pid(self) -> int:
        """The server's process id; raises :class:`ServerUnavailable` when it does not run."""
        if self._process is None or self._process.poll() is not None:
            raise ServerUnavailable(f"{self.name} on port {self.port} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server and wait until it accepts connections."""
        if self.running:
            return self
        self._reap()
        if not (self.folder / ".prepared").exists():
            self.prepare()
            (self.folder / ".prepared").touch()
        # Root opens it in a folder of the server's user.
        with open(open_private(self.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as log:
            self._process = self._popen(self.command(), stdout=log, cwd=self.folder)
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", self._guard_signal(), str(self._process.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server ("fast": cleanly; "immediate": without tidying up), keeping its data."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self.stop_signals[mode])
            # A process that a test has paused handles no signal but SIGKILL until it continues.
            self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(self.deadline_seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise ServerUnavailable(
                    f"{self.name} did not stop in {self.deadline_seconds:g} s and was killed\n{self._tail()}"
                ) from None
        self._reap()

    def kill(self) -> None:
        """End the server and its children by SIGKILL, at once, keeping its data as a crash would leave it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._reap()

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start: same port, same data."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server and remove everything that it left."""
        try:
            self.stop("immediate")
        finally:
            self._remove_folder()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "stopped"
        return f"<{type(self).__name__} port {self.port}, {state}>"

    # -- inside ------------------------------------------------------------------------------------

    def run(self, *command: str | Path) -> str:
        """Run a command as the server's user, in its environment; return what it writes to its output."""
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            # Not in the server's folder: processes there belong to the server, and are ended with it.
            returncode = self._popen(command, stdout=output, stderr=errors, cwd=Path("/")).wait()
            output.seek(0)
            errors.seek(0)
            text = output.read().decode(errors="replace")
            if returncode != 0:
                said = errors.read().decode(errors="replace")
                raise ServerUnavailable(f"{Path(command[0]).name} failed ({returncode}):\n{text}{said}")
            return text

    def _popen(
        self,
        command: Sequence[str | Path],
        *,
        stdout: IO[bytes],
        stderr: IO[bytes] | None = None,
        cwd: Path,
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT if stderr is None else stderr,
            cwd=cwd,
            env=self.environment(),
            user=self.user,
            group=pwd.getpwnam(self.user).pw_gid if self.user else None,
            extra_groups=[] if self.user else None,
            # Ctrl-C at a terminal must reach only us; we stop the servers in the right order.
            start_new_session=True,
        )

    def _own(self, path: Path) -> None:
        if self.user:
            entry = pwd.getpwnam(self.user)
            os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)

    def _write(self, path: Path, text: str) -> Path:
        path.unlink(missing_ok=True)
        with open(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
            file.write(text)
        self._own(path)
        return path

    def _guard_signal(self) -> str:
        return self.stop_signals["immediate"].name.removeprefix("SIG")

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + self.deadline_seconds
        while True:
            if self._process is None or self._process.poll() is not None:
                raise ServerUnavailable(f"{self.name} ended while starting\n{self._tail()}")
            if self.ready():
                return
            if time.monotonic() > deadline:
                raise ServerUnavailable(
                    f"{self.name} not ready after {self.deadline_seconds:g} s\n{self._tail()}"
                )
            time.sleep(0.02)

    def _tail(self, lines: int = 40) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def _reap(self) -> None:
        """Forget the ended process, end its orphaned children, and dismiss its guard."""
        deadline = time.monotonic() + self.deadline_seconds
        while (left := processes_in(self.folder)) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        self._process = None
        if self._guard is not None:
            self._guard.kill()
            if self._guard.stdin is not None:
                self._guard.stdin.close()
            self._guard.wait()
            self._guard = None
