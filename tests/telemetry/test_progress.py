"""The producer's log line."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from walex_celery import Lsn
from walex_celery.telemetry.progress import Progress, human_bytes, human_seconds
from walex_celery.telemetry.report import LagStatus
from walex_celery.telemetry.statistics import Statistics

PAGE = (Path(__file__).parents[2] / "docs" / "operations" / "logs.md").read_text(encoding="utf-8")


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

    text = line(caplog)
    assert text.startswith("3 events, 4 tasks, 1 transaction in ")
    assert "lag 2.0 KiB, 90." in text
    assert text.endswith("acknowledged 0/16B3748")


def test_what_was_told_is_not_told_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    progress, totals = Progress(60), counted(1, 3, 4)
    progress.log(totals, acknowledged=Lsn(0), lag=LagStatus())
    caplog.clear()

    progress.log(totals, acknowledged=Lsn(0), lag=LagStatus())

    assert re.match(r"0 events, 0 tasks, 0 transactions in [\d.]+ .?s; lag unknown, 0\.0 s", line(caplog))


@pytest.mark.parametrize(
    ("counts", "seconds", "begins"),
    [
        ((12, 37, 41), 60, "37 events, 41 tasks, 12 transactions in 60 s; lag"),
        ((1, 1, 1), 10, "1 event, 1 task, 1 transaction in 10 s; lag"),
        (
            (1_000, 312_004, 624_008),
            10.4,
            "312,004 events, 624,008 tasks, 1,000 transactions in 10 s (30,000 events/s); lag",
        ),
        ((5, 500, 0), 3600, "500 events, 0 tasks, 5 transactions in 60 min; lag"),
    ],
)
def test_a_few_events_are_not_shown_as_none(
    counts: tuple[int, int, int],
    seconds: float,
    begins: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """37 events in a minute are 0.6 a second, which was shown as 0."""
    caplog.set_level(logging.INFO)
    now = 1000.0
    monkeypatch.setattr("walex_celery.telemetry.progress.time", SimpleNamespace(monotonic=lambda: now))
    progress = Progress(60)
    now += seconds

    progress.log(counted(*counts), acknowledged=Lsn(0), lag=LagStatus(0))

    assert line(caplog).startswith(begins)


def test_the_documentation_has_lines_as_they_are_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    documented = PAGE.partition("## The progress line")[2].partition("```\n")[2].partition("```")[0]
    now = 1000.0
    monkeypatch.setattr("walex_celery.telemetry.progress.time", SimpleNamespace(monotonic=lambda: now))
    progress = Progress(10)
    statistics = counted(12, 37, 41)
    now += 10
    progress.log(statistics, acknowledged=Lsn(0x16B3748), lag=LagStatus(1229, 0.4))
    statistics.transactions, statistics.events, statistics.tasks = 1052, 312_037, 312_041
    now += 10
    behind = LagStatus(1_288_490_189, 200.0, 2**31, seconds_left=185.0)
    progress.log(statistics, acknowledged=Lsn(0x2F6A3C8), lag=behind)

    assert [record.getMessage() for record in caplog.records] == documented.splitlines()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"), (0.00000012, "0.1 µs"), (0.00001, "10 µs"), (0.0005, "500 µs"), (0.001, "1.0 ms"),
        (0.00149, "1.5 ms"), (0.0123, "12 ms"), (0.5, "500 ms"), (1.25, "1.2 s"), (90, "90 s"), (200, "3 min"),
        (7200, "2 h"), (86400 * 3, "3 days"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds: float, text: str) -> None:
    """A mean of 10 µs is not shown as 0.0 ms."""
    assert human_seconds(seconds) == text


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
