"""The demo, run by its command as a user would: real servers, real processes, nothing left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support import wait_until
from walex_celery.demo.screen import effects_table
from walex_celery.testing._system import processes_in

COMMAND = shutil.which("walex-celery", path=str(Path(sys.executable).parent))


class Run:
    """A demo under way, and what it has written."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    def output(self) -> str:
        """Everything so far."""
        return self._output.read_text()

    def wait_for(self, text: str) -> str:
        """Wait until *text* is written; return the output."""
        wait_until(
            lambda: text in self.output() or self.process.poll() is not None, 60, f"{text!r} is written"
        )
        assert text in self.output(), self.output()
        return self.output()

    def end(self, timeout: float = 90) -> int:
        """Wait for its end; return the exit code."""
        return self.process.wait(timeout)


Start = Callable[..., AbstractContextManager[Run]]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files that the servers' own user may enter; empty again at the end."""
    folder = Path(tempfile.mkdtemp(prefix="walex-demo-"))
    folder.chmod(0o755)
    yield folder
    left = processes_in(folder), list(folder.iterdir())
    shutil.rmtree(folder, ignore_errors=True)
    assert left == ([], [])


@pytest.fixture
def demo(scratch: Path, tmp_path: Path) -> Start:
    """Start a demo with arguments, as a context manager."""

    @contextmanager
    def start(*arguments: str) -> Iterator[Run]:
        assert COMMAND is not None, "the package is not installed beside this Python"
        output = tmp_path / "output"
        environment = {**os.environ, "TMPDIR": str(scratch)}
        # What a user's own application has set is not for the demo's.
        environment.update({"WALEX_PORT": "1", "WALEX_SUBSCRIPTIONS": "nonsense", "COLUMNS": "60"})
        with output.open("wb") as file:
            process = subprocess.Popen(
                [COMMAND, "demo", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
            )
        run = Run(process, output)
        try:
            yield run
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)

    return start


def test_every_change_makes_its_tasks_run(demo: Start) -> None:
    with demo("--seconds", "4") as run:
        code = run.end()
        output = run.output()

    assert code == 0, output
    assert re.search(r"Flower +http://127\.0\.0\.1:\d+\n", output)
    assert re.search(r"insert +users .* name=\w+ email=\S+ event_subscribe=\w+ .* updated_at=", output)
    assert re.search(r"\n +└ index_user user:\d+ put into the index \d+ ms\n", output)
    assert re.search(r"welcome emails +│ [1-9]", output)
    assert "✗" not in output
    assert output.index("every change made its tasks run") > 0
    assert "\x1b" not in output, "control codes in a pipe"


def test_a_worker_that_dies_is_told(demo: Start) -> None:
    with demo("--seconds", "60") as run:
        output = run.wait_for("Each change")
        worker = re.search(r"worker +pid (\d+)", output)
        assert worker is not None
        os.kill(int(worker[1]), signal.SIGKILL)
        code = run.end()
        output = run.output()

    assert code == 1, output
    assert "the worker ended by itself" in output
    assert "celery@" in output, "the end of the worker's log is shown"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(demo: Start, number: signal.Signals) -> None:
    with demo() as run:
        run.wait_for("└ ")
        run.process.send_signal(number)
        code = run.end()
        output = run.output()

    assert code == 0, output
    assert "Traceback" not in output
    assert output.endswith("stopping\n")


def test_nothing_is_left_when_the_demo_itself_is_killed(demo: Start, scratch: Path) -> None:
    with demo() as run:
        run.wait_for("Each change")
        run.process.kill()
        run.end()
        wait_until(lambda: not processes_in(scratch) and not list(scratch.iterdir()), 30, "all is gone")


def test_an_effect_that_is_missing_is_named() -> None:
    table, missing = effects_table(
        '[{"effect": "emails", "expected": "3", "found": "2"}, {"effect": "pages", "expected": "1", "found": "1"}]'
    )

    assert table.row_count == 2
    assert missing == ["emails: 3 expected, 2 found"]
