"""How far behind a producer is, and how fast it works, measured by a thread of its own.

The producer's thread may be in a handler, or waiting for the broker, just when the lag matters most. The measuring
thread has its own connection, because psycopg2's must not be used by two threads at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from walex_celery.errors import WalExError
from walex_celery.postgres.catalog import Catalog
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.telemetry.report import LagStatus
from walex_celery.telemetry.statistics import Statistics

logger = logging.getLogger("walex_celery.lag")

#: The longest interval between two measurements, in seconds.
MEASURE_SECONDS: Final = 2.0
#: A lag of this size is a backlog, whose end is worth estimating; below a sixteenth of it, the backlog is over.
BACKLOG_BYTES: Final = 16 * 1024 * 1024
#: Seconds over which rates are averaged.
RATE_SECONDS: Final = 10.0
#: WAL counts as lag once it is unacknowledged for this many seconds: acknowledgements come in steps.
_NOTICEABLE_SECONDS: Final = 5.0
_MAX_MARKS: Final = 512


class _Mark(NamedTuple):
    """At a moment, Postgres had written this far."""

    at: float
    wal_lsn: int


class Backlog:
    """Computes the lag from positions measured one after another."""

    def __init__(self) -> None:
        self._marks: deque[_Mark] = deque()
        self._lags: deque[tuple[float, int]] = deque()
        self._largest = 0

    def observe(self, at: float, wal_lsn: int, acknowledged: int, newest_seconds: float | None) -> LagStatus:
        """The lag at moment *at* (seconds, of a steady clock).

        Args:
            at: now.
            wal_lsn: how far Postgres has written.
            acknowledged: the acknowledged position.
            newest_seconds: the age of the current transaction, if any.
        """
        lag = max(0, wal_lsn - acknowledged)
        marks = self._marks
        while marks and marks[0].wal_lsn <= acknowledged:
            marks.popleft()
        if wal_lsn > acknowledged and (not marks or marks[-1].wal_lsn < wal_lsn):
            marks.append(_Mark(at, wal_lsn))
            if len(marks) > _MAX_MARKS:
                # A lag of hours needs no precision of seconds.
                self._marks = deque(mark for number, mark in enumerate(marks) if number % 2 == 0)
        unacknowledged = at - self._marks[0].at if self._marks else 0.0
        seconds = max(newest_seconds or 0.0, unacknowledged if unacknowledged >= _NOTICEABLE_SECONDS else 0.0)
        lags = self._lags
        lags.append((at, lag))
        while lags[0][0] < at - RATE_SECONDS:
            lags.popleft()
        if lag < BACKLOG_BYTES // 16:
            self._largest = 0
        elif lag >= BACKLOG_BYTES or self._largest:
            self._largest = max(self._largest, lag)
        left = None
        (first_at, first_lag), shrunk = lags[0], lags[0][1] - lag
        if self._largest and at > first_at and shrunk > 0:
            left = lag * (at - first_at) / (first_lag - lag)
        return LagStatus(lag, seconds, self._largest, left, datetime.now(UTC))


class Rates(NamedTuple):
    """Counts a second."""

    transactions: float = 0.0
    events: float = 0.0
    tasks: float = 0.0


class Meter(threading.Thread):
    """Measures lag and rates every few seconds until :meth:`close`.

    Args:
        settings: returns the current ones; called for each connection.
        acknowledged: returns the acknowledged position, or ``None`` while not streaming.
        newest: returns the commit time of the current transaction, if any.
        statistics: the counts that rates are computed from.
        interval_seconds: between two measurements.
    """

    def __init__(
        self,
        settings: Callable[[], SlotSettings],
        acknowledged: Callable[[], Lsn | None],
        newest: Callable[[], datetime | None],
        statistics: Statistics,
        interval_seconds: float = MEASURE_SECONDS,
    ) -> None:
        super().__init__(name="walex-meter", daemon=True)
        self._current = settings
        self._acknowledged = acknowledged
        self._newest = newest
        self._statistics = statistics
        self._interval = interval_seconds
        self._closing = threading.Event()
        self._look = threading.Event()
        self._backlog = Backlog()
        self._counted: deque[tuple[float, int, int, int]] = deque()
        self._catalog: Catalog | None = None
        self._settings: SlotSettings | None = None
        #: As last measured.
        self.lag = LagStatus()
        self.rates = Rates()

    def run(self) -> None:
        """Measure until closed."""
        while not self._closing.is_set():
            self._look.clear()
            self._measure_rates()
            acknowledged = self._acknowledged()
            if acknowledged is not None:
                self.lag = self._measure(acknowledged)
            elif self.lag.bytes is not None:
                self._forget()
            self._look.wait(self._interval)
        self._disconnect()

    def look(self) -> None:
        """Measure soon, because streaming has begun."""
        self._look.set()

    def close(self) -> None:
        """Stop. Waits only briefly: a measurement that hangs in a connection ends by itself."""
        self._closing.set()
        self._look.set()
        if self.is_alive():
            self.join(timeout=1.0)

    def _measure(self, acknowledged: Lsn) -> LagStatus:
        settings = self._current()
        if settings != self._settings:
            self._disconnect()
            self._backlog = Backlog()
            self._settings = settings
        if self._catalog is None:
            self._catalog = Catalog(settings.connection)
        try:
            wal_lsn = self._catalog.wal_lsn()
        except WalExError:
            logger.debug("the lag is unknown", exc_info=True)
            return LagStatus(seconds=self._newest_seconds() or 0.0)
        return self._backlog.observe(time.monotonic(), wal_lsn, acknowledged, self._newest_seconds())

    def _newest_seconds(self) -> float | None:
        newest = self._newest()
        return None if newest is None else max(0.0, (datetime.now(UTC) - newest).total_seconds())

    def _measure_rates(self) -> None:
        now, statistics, counted = time.monotonic(), self._statistics, self._counted
        counts = (now, statistics.transactions, statistics.events, statistics.tasks)
        counted.append(counts)
        while counted[0][0] < now - RATE_SECONDS:
            counted.popleft()
        elapsed = now - counted[0][0]
        if elapsed > 0:
            transactions, events, tasks = (
                (after - before) / elapsed for after, before in zip(counts[1:], counted[0][1:], strict=True)
            )
            self.rates = Rates(transactions, events, tasks)

    def _forget(self) -> None:
        self.lag = LagStatus()

    def _disconnect(self) -> None:
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None
