"""Failpoints do what the environment says, once, and nothing where it says nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_args

import pytest

from tests.support import wait_until
from tests.support.failpoints import Pause
from walex_celery import _failpoints
from walex_celery._failpoints import EXIT_STATUS, FailpointReached, Name, failpoint

TWICE = """
from walex_celery._failpoints import failpoint
for _ in range(2):
    failpoint("tasks-added")
    print("passed")
"""


def run(failpoints: str) -> tuple[int, int]:
    """The status of a process that gets there twice, and how often it went on."""
    done = subprocess.run(
        [sys.executable, "-u", "-c", TWICE],
        env={**os.environ, "WALEX_FAILPOINTS": failpoints, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.count("passed")


@pytest.mark.parametrize(
    ("failpoints", "status", "passed"),
    [
        ("", 0, 2),
        ("acknowledged=kill", 0, 2),
        ("tasks-added=kill", -signal.SIGKILL, 0),
        ("acknowledged=exit; tasks-added=kill@2 ;", -signal.SIGKILL, 1),
        ("tasks-added=kill@3", 0, 2),
        ("tasks-added=exit", EXIT_STATUS, 0),
        ("tasks-added=raise@2", 1, 1),
    ],
)
def test_a_process_ends_where_it_is_told_to(failpoints: str, status: int, passed: int) -> None:
    assert run(failpoints) == (status, passed)


@pytest.mark.parametrize(
    "wrong",
    ["acknowleged=kill", "acknowledged", "acknowledged=stop", "acknowledged=kill@0", "acknowledged=kill@x",
     "acknowledged=pause", "acknowledged=kill:/tmp/file"],
)  # fmt: skip
def test_what_can_t_be_read_is_an_error(wrong: str) -> None:
    with pytest.raises(ValueError, match="can't be read: NAME=ACTION") as raised:
        _failpoints._parse(wrong)
    assert repr(wrong) in str(raised.value)


def test_it_raises_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_failpoints, "_points", _failpoints._parse("acknowledged=raise@2"))
    failpoint("acknowledged")
    failpoint("tasks-added")
    with pytest.raises(FailpointReached, match="acknowledged"):
        failpoint("acknowledged")
    failpoint("acknowledged")


def test_a_pause_is_one_thread_s_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pause = Pause("acknowledged", tmp_path / "here")
    monkeypatch.setattr(_failpoints, "_points", _failpoints._parse(str(pause)))
    thread = threading.Thread(target=failpoint, args=("acknowledged",))
    thread.start()
    pause.wait()
    assert thread.is_alive()
    failpoint("acknowledged")
    pause.end()
    wait_until(lambda: not thread.is_alive())
    thread.join()


def test_each_stands_in_one_place() -> None:
    package = Path(_failpoints.__file__).parents[1]
    text = "".join(path.read_text() for path in package.rglob("*.py"))
    assert {name: text.count(f'failpoint("{name}")') for name in get_args(Name)} == dict.fromkeys(
        get_args(Name), 1
    )
