"""The producer's periodic log line: what was done since the last line, and the lag."""

from __future__ import annotations

import logging
import time
from typing import Final, NamedTuple

from walex_celery.postgres.lsn import Lsn
from walex_celery.telemetry.report import LagStatus
from walex_celery.telemetry.statistics import Statistics

logger = logging.getLogger("walex_celery.progress")


#: Events per second; a lower rate is not shown.
_SHOWN_RATE: Final = 10


class _Totals(NamedTuple):
    transactions: int
    events: int
    tasks: int


class Progress:
    """What was done between two log lines, and the lag as last measured."""

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
            "%s, %s, %s in %s%s; lag %s, %.1f s%s; acknowledged %s",
            _counted(events, "event"),
            _counted(tasks, "task"),
            _counted(transactions, "transaction"),
            human_seconds(elapsed),
            # Of few events the rate would be rounded to next to nothing.
            f" ({events / elapsed:,.0f} events/s)" if events / elapsed >= _SHOWN_RATE else "",
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


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


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


#: In seconds, and up to which number of it; 999.6 µs are 1.0 ms.
_UNITS: Final = ((1e-6, "µs", 999.5), (1e-3, "ms", 999.5), (1, "s", 120), (60, "min", 120), (3600, "h", 48))


def human_seconds(seconds: float) -> str:
    """A duration, readable and rounded.

    >>> human_seconds(200)
    '3 min'
    >>> human_seconds(0.0123)
    '12 ms'
    >>> human_seconds(0.0000084)
    '8.4 µs'
    """
    if not seconds:
        return "0 ms"
    for size, unit, limit in _UNITS:
        number = seconds / size
        if number < limit:
            return f"{number:.1f} {unit}" if number < 10 and size <= 1 else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
