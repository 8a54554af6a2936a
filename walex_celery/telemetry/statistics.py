"""What a producer counts, for its log, ``walex status``, metrics and Flower.

Written only by the producer's thread, read by any thread: each number is right, but two numbers read one after
another may be of two moments. Counting an event costs one attribute increment, and nothing else.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from walex_celery.postgres.pgoutput import timestamp

#: Upper bounds of the buckets that /metrics shows, in seconds. A handler that only counts takes some 10 µs.
BOUNDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0
)  # fmt: skip
#: Those that are counted in: ten for each power of ten (the preferred numbers R10), from 1 µs to 2 h.
_FINE: Final = tuple(
    sorted(
        {*BOUNDS}
        | {
            float(f"{step}e{power}")
            for power in range(-6, 4)
            for step in (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)
        }
    )
)


class Durations:
    """Durations in buckets, as in a Prometheus histogram.

    Attributes:
        sum: of all, in seconds.
        last: the newest one, in seconds.
        shortest, longest: in seconds; infinity and 0 if there were none.
    """

    __slots__ = ("_counts", "last", "longest", "shortest", "sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(_FINE) + 1)
        self.sum = 0.0
        self.last = 0.0
        self.shortest = math.inf
        self.longest = 0.0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)

    @property
    def buckets(self) -> list[int]:
        """The counts for each of :data:`BOUNDS` (not cumulative) and, last, for longer ones."""
        buckets = [0] * (len(BOUNDS) + 1)
        for bound, found in zip((*_FINE, math.inf), self._counts, strict=True):
            buckets[bisect_left(BOUNDS, bound)] += found
        return buckets

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(_FINE, seconds)] += 1
        self.sum += seconds
        self.last = seconds
        if seconds < self.shortest:
            self.shortest = seconds
        if seconds > self.longest:
            self.longest = seconds

    def copy(self) -> Durations:
        """A copy that stays as it is, whose figures are of one moment; callable from any thread."""
        copied = Durations()
        # Nothing is called in between, here and after bisect_left() above, so CPython does not change threads.
        copied._counts, copied.sum, copied.last, copied.shortest, copied.longest = (
            self._counts[:], self.sum, self.last, self.shortest, self.longest
        )  # fmt: skip
        return copied

    def quantile(self, part: float) -> float | None:
        """The duration that *part* (0 to 1) of them did not exceed, estimated; ``None`` if there were none.

        From the buckets, and no less or more than the other figures allow, so that no estimate contradicts the mean.
        """
        count = self.count
        if not count:
            return None
        rank = max(1, math.ceil(part * count))
        longer = count - rank
        # If all the longer ones were as long as the longest; if all the shorter ones were as short as the shortest.
        least = (self.sum - longer * self.longest) / rank
        most = (self.sum - (rank - 1) * self.shortest) / (longer + 1)
        estimate = min(max(self._in_bucket(rank), least), most)
        return min(max(estimate, self.shortest), self.longest)

    def _in_bucket(self, rank: int) -> float:
        """The duration of this rank, from 1, if those of each bucket are spread evenly over it."""
        lower, below = 0.0, 0
        for bound, found in zip((*_FINE, max(self.longest, _FINE[-1])), self._counts, strict=True):
            if below + found >= rank:
                return lower + (bound - lower) * (rank - below) / found
            lower, below = bound, below + found
        return self.longest


class Tally:
    """Counts of events of one table and type: those routed to handlers, and those dropped by filters."""

    __slots__ = ("accepted", "filtered")

    def __init__(self) -> None:
        self.accepted = 0
        self.filtered = 0


class TaskTally:
    """How many tasks of one function were handed to the publisher."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class EventKey(NamedTuple):
    """What events are counted by; for messages, schema and table are empty."""

    schema: str
    table: str
    type: str


class HandlerTally:
    """What one batch handler did.

    Attributes:
        calls: how often it returned.
        events: how many events it got in those.
        errors: how often it raised.
        seconds: how long each call took.
        last_error: the type of the last exception (not its text, which may hold row data), or ``None``.
        last_error_at: when.
    """

    __slots__ = ("calls", "errors", "events", "last_error", "last_error_at", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.events = 0
        self.errors = 0
        self.seconds = Durations()
        self.last_error: str | None = None
        self.last_error_at: datetime | None = None

    def returned(self, events: int, seconds: float) -> None:
        """Count a call that succeeded."""
        self.calls += 1
        self.events += events
        self.seconds.observe(seconds)

    def raised(self, error: BaseException, seconds: float) -> None:
        """Count a call that failed."""
        self.errors += 1
        self.seconds.observe(seconds)
        self.last_error = type(error).__name__
        self.last_error_at = datetime.now(UTC)


class Statistics:
    """The counts of one producer since it was started.

    Attributes:
        started: when.
        messages: pgoutput messages read.
        transactions: transactions with a routed event, once dispatched completely.
        events: events dispatched, of all tables and types.
        tasks: tasks handed to the publisher.
        connects: how often streaming began: the reconnects plus one.
        publish: seconds from writing a batch of tasks to its confirmation.
        newest_microseconds: commit time of the newest transaction begun, in microseconds since 2000-01-01 UTC.
    """

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self.messages = 0
        self.transactions = 0
        self.events = 0
        self.tasks = 0
        self.connects = 0
        self.publish = Durations()
        self.newest_microseconds: int | None = None
        self._by_event: dict[EventKey, Tally] = {}
        self._by_handler: dict[str, HandlerTally] = {}
        self._by_task: dict[str, TaskTally] = {}
        self._dead_letters: dict[str, int] = {}

    @property
    def newest(self) -> datetime | None:
        """Commit time of the newest transaction begun."""
        return None if self.newest_microseconds is None else timestamp(self.newest_microseconds)

    def tally(self, schema: str, table: str, type: str) -> Tally:
        """The tally of a table's events of one type; the same object each time."""
        return self._by_event.setdefault(EventKey(schema, table, type), Tally())

    def handler(self, name: str) -> HandlerTally:
        """The tally of a batch handler; the same object each time."""
        # Not setdefault(), which would create a tally for every call.
        found = self._by_handler.get(name)
        if found is None:
            found = self._by_handler[name] = HandlerTally()
        return found

    def task(self, name: str) -> TaskTally:
        """The tally of a function, by its task's name; the same object each time."""
        return self._by_task.setdefault(name, TaskTally())

    def tallies(self) -> Iterator[tuple[EventKey, Tally]]:
        """All tallies of events; callable from any thread."""
        return iter(list(self._by_event.items()))

    def handlers(self) -> Iterator[tuple[str, HandlerTally]]:
        """All tallies of batch handlers, by name; callable from any thread."""
        return iter(list(self._by_handler.items()))

    def task_tallies(self) -> Iterator[tuple[str, TaskTally]]:
        """All tallies of functions, by their tasks' names; callable from any thread."""
        return iter(list(self._by_task.items()))

    def dead_lettered(self, name: str) -> None:
        """Count a dead letter of a batch handler, or of a function."""
        self._dead_letters[name] = self._dead_letters.get(name, 0) + 1

    def dead_letters(self) -> Iterator[tuple[str, int]]:
        """Dead letters stored, by the handler's or function's name; callable from any thread."""
        return iter(list(self._dead_letters.items()))
