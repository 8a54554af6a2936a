"""What the producer's thread is doing, and since when: for health checks, ``walex status`` and metrics.

Written by the producer's thread, read by any thread. Covers only what can take long: iterations of the loop, handlers,
waits.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Doing(enum.Enum):
    """What a producer can be doing."""

    STARTING = "starting"
    CONNECTING = "connecting"
    CREATING_SLOT = "creating the slot"
    """Postgres waits for all open transactions to end, so it takes as long as the longest of them."""
    STANDING_BY = "standing by"
    STREAMING = "streaming"
    """Reads, decodes and dispatches, or waits for data."""
    HANDLER = "in a handler"
    """A batch handler runs: user code, with no time limit."""
    MIDDLEWARE = "in the message middleware"
    """Likewise."""
    BROKER = "delivering"
    """Writes to the broker, or waits for confirmation."""
    BROKER_DOWN = "waiting for the broker"
    """A delivery failed, and is retried until it works."""
    PAUSED = "paused"
    """By ``walex control pause``: the slot stays in use, but nothing is read until ``resume``."""
    RETRYING = "trying again"
    """Postgres is unreachable, or the slot is still in use; waits before the next try."""
    ENDED = "ended"


class Moment(NamedTuple):
    """What was being done at one moment.

    Attributes:
        doing: what.
        detail: such as the handler's name, or empty.
        seconds: since it began, or last showed to be alive.
    """

    doing: Doing
    detail: str
    seconds: float


class Activity:
    """What one thread is doing."""

    __slots__ = ("_now",)

    def __init__(self) -> None:
        # One tuple, replaced atomically: readers in other threads never see half a change.
        self._now = (Doing.STARTING, "", time.monotonic())

    def begin(self, doing: Doing, detail: str = "") -> tuple[Doing, str]:
        """Start an activity; starting it again shows that it is alive. Returns the one before."""
        before = self._now
        self._now = (doing, detail, time.monotonic())
        return before[:2]

    @contextmanager
    def during(self, doing: Doing, detail: str = "") -> Iterator[None]:
        """An activity for the duration of a ``with``; afterwards the one before continues."""
        before = self.begin(doing, detail)
        try:
            yield
        finally:
            self.begin(*before)

    @property
    def now(self) -> Moment:
        """The current activity; callable from any thread."""
        doing, detail, since = self._now
        return Moment(doing, detail, max(0.0, time.monotonic() - since))
