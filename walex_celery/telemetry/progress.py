"""The producer's periodic log line: rates since the last line, and the lag."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from walex_celery.postgres.lsn import Lsn
from walex_celery.telemetry.report import LagStatus
from walex_celery.telemetry.statistics import Statistics

logger = logging.getLogger("walex_celery.progress")


class _Totals(NamedTuple):
    transactions: int
    events: int
    tasks: int


class Progress:
    """Rates between two log lines, and the lag as last measured."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval = interval_seconds
        self._at = time.monotonic()
        self._last = _Totals(0, 0, 0)

    @property
    def due(self) -> bool:
        """Whether a line is due."""
        return time.monotonic() - self._at >= self._interval

    def log(self, statistics: Statistics, *, acknowledged: Lsn, lag: LagStatus) -> None:
        """Write the line."""
        now = time.monotonic()
        totals = _Totals(statistics.transactions, statistics.events, statistics.tasks)
        elapsed = max(now - self._at, 1e-9)
        events = totals.events - self._last.events
        tasks = totals.tasks - self._last.tasks
        transactions = totals.transactions - self._last.transactions
        logger.info(
            "%.0f events/s, %.0f tasks/s, %.0f transactions/s; lag %s, %.1f s%s; acknowledged %s",
            events / elapsed,
            tasks / elapsed,
            transactions / elapsed,
            "unknown" if lag.bytes is None else human_bytes(lag.bytes),
            lag.seconds,
            "" if lag.seconds_left is None else f", done in about {human_seconds(lag.seconds_left)}",
            acknowledged,
            extra={
                "lsn": str(acknowledged),
                "lag_bytes": lag.bytes,
                "lag_seconds": lag.seconds,
                "events": totals.events,
                "tasks": totals.tasks,
                "transactions": totals.transactions,
            },
        )
        self._at, self._last = now, totals


def human_bytes(count: int) -> str:
    """*count* bytes, readable.

    >>> human_bytes(1536)
    '1.5 KiB'
    """
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """A duration, readable and rounded.

    >>> human_seconds(200)
    '3 min'
    >>> human_seconds(0.0123)
    '12 ms'
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 or not seconds else f"{seconds * 1000:.1f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit, limit in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if seconds / size < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
