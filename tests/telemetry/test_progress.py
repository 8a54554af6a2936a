"""The producer's log line."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from walex_celery import Lsn
from walex_celery.telemetry.progress import Progress, human_bytes
from walex_celery.telemetry.report import LagStatus
from walex_celery.telemetry.statistics import Statistics


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**20, "5.0 MiB"), (3 * 2**30, "3.0 GiB"),
        (7 * 2**40, "7.0 TiB"), (7 * 2**60, "7340032.0 TiB"),
    ],
)  # fmt: skip
def test_bytes_for_people(count: int, text: str) -> None:
    assert human_bytes(count) == text


def counted(transactions: int, events: int, tasks: int) -> Statistics:
    statistics = Statistics()
    statistics.transactions, statistics.events, statistics.tasks = transactions, events, tasks
    return statistics


def line(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = caplog.records
    caplog.clear()
    return record.getMessage()


def test_the_line_tells_rates_and_lag(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    progress = Progress(60)

    progress.log(counted(1, 3, 4), acknowledged=Lsn(0x16B3748), lag=LagStatus(2048, 90.0))

    told = line(caplog)
    assert "events/s" in told
    assert "lag 2.0 KiB, 90." in told
    assert told.endswith("acknowledged 0/16B3748")


def test_what_was_told_is_not_told_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    progress, totals = Progress(60), counted(1, 3, 4)
    progress.log(totals, acknowledged=Lsn(0), lag=LagStatus())
    caplog.clear()

    progress.log(totals, acknowledged=Lsn(0), lag=LagStatus())

    assert line(caplog).startswith("0 events/s, 0 tasks/s, 0 transactions/s; lag unknown, 0.0 s")


def test_the_end_of_a_backlog_is_foretold(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lag = LagStatus(1_288_490_189, 200.0, 2**31, seconds_left=185.0)

    Progress(60).log(Statistics(), acknowledged=Lsn(0), lag=lag)

    assert "lag 1.2 GiB, 200.0 s, done in about 3 min; acknowledged" in line(caplog)


def test_it_is_due_once_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("walex_celery.telemetry.progress.time", SimpleNamespace(monotonic=lambda: now))
    progress = Progress(60)
    now += 59
    assert not progress.due
    now += 1
    assert progress.due

    progress.log(Statistics(), acknowledged=Lsn(0), lag=LagStatus(0))

    assert not progress.due
    now += 60
    assert progress.due
