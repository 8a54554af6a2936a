"""What the producer's thread is doing, and since when: for health checks, ``walex status`` and metrics.

Written by the producer's thread, read by any. Only what can take long is told of: the loop's turns, handlers, waits.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Doing(enum.Enum):
    """What a producer can be at."""

    STARTING = "starting"
    CONNECTING = "connecting"
    CREATING_SLOT = "creating the slot"
    """Postgres waits for the end of every transaction that is open: it may take as long as the longest of them."""
    STANDING_BY = "standing by"
    STREAMING = "streaming"
    """Reads, decodes and dispatches; or waits for something to read."""
    HANDLER = "in a handler"
    """A batch handler runs: user code, which may take as long as it takes."""
    MIDDLEWARE = "in the message middleware"
    """As a handler."""
    BROKER = "delivering"
    """Writes to the broker, or waits for its confirmation."""
    BROKER_DOWN = "waiting for the broker"
    """A delivery failed, and is tried again until it works."""
    PAUSED = "paused"
    """By ``walex control pause``: the slot is held, nothing is read until ``resume``."""
    RETRYING = "trying again"
    """Postgres is away, or the slot is still in use; waits before the next try."""
    ENDED = "ended"


class Moment(NamedTuple):
    """What was being done at one moment.

    Attributes:
        doing: what.
        detail: of what, such as the handler's name, or empty.
        seconds: how long ago it was begun, or last shown to be alive.
    """

    doing: Doing
    detail: str
    seconds: float


class Activity:
    """What one thread is doing."""

    __slots__ = ("_now",)

    def __init__(self) -> None:
        # One tuple, put in place at once: a reader in another thread never sees half of a change.
        self._now = (Doing.STARTING, "", time.monotonic())

    def begin(self, doing: Doing, detail: str = "") -> tuple[Doing, str]:
        """Say what is done from now on; saying it again shows that it goes on. Returns what was done before."""
        before = self._now
        self._now = (doing, detail, time.monotonic())
        return before[:2]

    @contextmanager
    def during(self, doing: Doing, detail: str = "") -> Iterator[None]:
        """Say what is done inside; what was done before goes on afterwards."""
        before = self.begin(doing, detail)
        try:
            yield
        finally:
            self.begin(*before)

    @property
    def now(self) -> Moment:
        """What is being done; callable from any thread."""
        doing, detail, since = self._now
        return Moment(doing, detail, max(0.0, time.monotonic() - since))
