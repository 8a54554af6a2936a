"""The shop's processes: the commands of its README, as child processes that never outlive the demo."""

from __future__ import annotations

import importlib.metadata
import shlex
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import walex_celery
from walex_celery.errors import WalExError
from walex_celery.events.event import Event
from walex_celery.testing._process import StopMode
from walex_celery.testing.servers import Server


class DemoError(WalExError):
    """The demo can't continue; the message says why, or shows the end of a process' log."""


def find_project() -> Path:
    """The folder of the example project: next to the package in a checkout, else where the wheel installed it.

    Raises:
        DemoError: it is in neither place.
    """
    beside = Path(walex_celery.__file__).parents[1] / "example_project"
    if (beside / "schema.sql").is_file():
        return beside
    for file in importlib.metadata.files("walex-celery") or ():
        if file.match("example_project/schema.sql"):
            return Path(str(file.locate())).resolve().parent
    raise DemoError(
        f"there is no example_project beside {Path(walex_celery.__file__).parent}, nor in the installed package; "
        "run 'make demo' in a source checkout"
    )


class ShopProcess(Server):
    """One process of the shop, with a folder of its own for its log and what it writes.

    Args:
        project: the example project's folder.
        environment: variables with the addresses of the servers.
    """

    stop_signals: ClassVar[Mapping[StopMode, signal.Signals]] = {
        "fast": signal.SIGTERM,
        "immediate": signal.SIGKILL,
    }
    #: Text in its output that shows that it is ready.
    ready_line: ClassVar[str]

    def __init__(self, project: Path, environment: Mapping[str, str]) -> None:
        super().__init__()
        self.project = project
        self._environment = environment

    def prepare(self) -> None:
        """Do nothing: the folder is enough."""

    def environment(self) -> dict[str, str]:
        """Only what it needs: the user's own WALEX_* variables are not for the shop."""
        package = Path(walex_celery.__file__).parents[1]
        return {
            **super().environment(),
            "PYTHONPATH": f"{self.project}:{package}",
            "PYTHONUTF8": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self._environment,
        }

    def ready(self) -> bool:
        """Whether its output shows that it is ready."""
        return self.ready_line in self.log()

    def write_variables(self) -> Path:
        """Write the variables that a shell needs to run the shop's commands; to a file, since they hold passwords."""
        path = self.folder / "variables.sh"
        names = ("PYTHONPATH", *self._environment)
        environment = self.environment()
        path.touch(mode=0o600)
        path.write_text("".join(f"export {name}={shlex.quote(environment[name])}\n" for name in names))
        return path

    def last_lines(self) -> str:
        """The end of its log."""
        return self._tail(30)


def _celery(*arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", "celery", "-A", "shop", *arguments]


class Worker(ShopProcess):
    """``celery -A shop worker``."""

    name: ClassVar[str] = "worker"
    ready_line: ClassVar[str] = " ready."

    def command(self) -> Sequence[str | Path]:
        """Run it with two processes."""
        return _celery("worker", "--loglevel=INFO", "--concurrency=2")


class Producer(ShopProcess):
    """``celery -A shop walex producer``."""

    name: ClassVar[str] = "producer"
    ready_line: ClassVar[str] = "streaming from"

    def command(self) -> Sequence[str | Path]:
        """Run it."""
        return _celery("walex", "producer")


class Flower(ShopProcess):
    """``celery -A shop flower``, on a port of its own."""

    name: ClassVar[str] = "flower"

    @property
    def url(self) -> str:
        """The address to open."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        """Run it, listening on this machine only."""
        columns = "--tasks_columns=name,args,uuid,state,received,runtime,worker"
        return _celery("flower", "--address=127.0.0.1", f"--port={self.port}", columns)

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/healthcheck", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


class Tail(ShopProcess):
    """``celery -A shop walex tail --json``: the changes, for the screen."""

    name: ClassVar[str] = "tail"
    ready_line: ClassVar[str] = "following"
    _read_bytes = 0

    def command(self) -> Sequence[str | Path]:
        """Run it."""
        return _celery("walex", "tail", "--json")

    def new_events(self) -> Iterator[Event]:
        """The events since the last call."""
        with self.log_path.open("rb") as log:
            log.seek(self._read_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read_bytes += len(line)
                if line.startswith(b"{"):
                    yield Event.from_json(line)


class Load(ShopProcess):
    """``python load.py``: the shop's customers."""

    name: ClassVar[str] = "load"
    ready_line: ClassVar[str] = "acting at"

    @property
    def report(self) -> Path:
        """The report of the changes it made, once it has ended."""
        return self.folder / "made.json"

    def command(self) -> Sequence[str | Path]:
        """Run it until it is stopped."""
        return [sys.executable, self.project / "load.py", "--rate=10", f"--report={self.report}"]


class Check(ShopProcess):
    """``python check.py``: whether all effects are there."""

    name: ClassVar[str] = "check"

    def __init__(
        self, project: Path, environment: Mapping[str, str], report: Path, wait_seconds: float
    ) -> None:
        super().__init__(project, environment)
        self._report = report
        self._wait_seconds = wait_seconds

    def command(self) -> Sequence[str | Path]:
        """Run it; it waits for what is not there yet."""
        return [
            sys.executable,
            self.project / "check.py",
            self._report,
            "--json",
            f"--wait={self._wait_seconds:g}",
        ]

    def ready(self) -> bool:
        """Always: it is not a server."""
        return True
