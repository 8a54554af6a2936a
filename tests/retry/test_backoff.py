"""Waiting between tries."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from walex_celery.errors import PostgresUnavailable
from walex_celery.retry import backoff
from walex_celery.retry.backoff import Backoff

ERROR = PostgresUnavailable("Postgres is away")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.004)
    monkeypatch.setattr(backoff, "LONGEST_SECONDS", 0.01)


def delays(caplog: pytest.LogCaptureFixture) -> list[float]:
    return [record.args[1] for record in caplog.records if isinstance(record.args, tuple)]  # type: ignore[misc]


@pytest.mark.usefixtures("_quick")
def test_each_wait_is_longer_up_to_a_limit_and_a_little_random(caplog: pytest.LogCaptureFixture) -> None:
    waiting, never = Backoff(None), threading.Event()

    with caplog.at_level(logging.WARNING, "walex_celery"):
        for _ in range(4):
            waiting.wait(ERROR, never)
        waiting.reset()
        waiting.wait(ERROR, never)

    for delay, longest in zip(delays(caplog), [0.004, 0.008, 0.01, 0.01, 0.004], strict=True):
        assert longest * 0.75 <= delay <= longest


def test_what_failed_is_said_with_its_level(caplog: pytest.LogCaptureFixture) -> None:
    stopping = threading.Event()
    stopping.set()

    Backoff(None).wait(ERROR, stopping, level=logging.ERROR)

    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("Postgres is away; trying again in 0.")


def test_stopping_ends_the_wait() -> None:
    stopping = threading.Event()
    stopping.set()
    waiting = Backoff(None)

    began = time.monotonic()
    for _ in range(20):
        waiting.wait(ERROR, stopping)

    assert time.monotonic() - began < 1


@pytest.mark.usefixtures("_quick")
def test_it_gives_up_after_so_long_with_the_error_itself() -> None:
    waiting, never = Backoff(0.02), threading.Event()

    def try_for_long() -> None:
        for _ in range(1000):
            waiting.wait(ERROR, never)

    with pytest.raises(PostgresUnavailable) as caught:
        try_for_long()
    assert caught.value is ERROR


@pytest.mark.usefixtures("_quick")
def test_the_first_failure_never_gives_up() -> None:
    waiting = Backoff(60)
    waiting.wait(ERROR, threading.Event())
