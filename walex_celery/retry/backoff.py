"""Waiting between tries, longer each time."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from walex_celery.errors import WalExError

logger = logging.getLogger("walex_celery.backoff")

FIRST_SECONDS: Final = 0.5
LONGEST_SECONDS: Final = 30.0


class Backoff:
    """Waits 0.5 s, 1 s, 2 s ... 30 s between tries, each shortened by up to a quarter at random.

    Args:
        give_up_seconds: after this long of failures in a row :meth:`wait` raises instead; ``None`` for never.
        first: the first wait, in seconds.
        longest: the longest wait, in seconds.
    """

    def __init__(
        self, give_up_seconds: float | None, *, first: float | None = None, longest: float | None = None
    ) -> None:
        self._give_up = give_up_seconds
        self._first = FIRST_SECONDS if first is None else first
        self._longest = LONGEST_SECONDS if longest is None else longest
        self._next = min(self._first, self._longest)
        self._since: float | None = None

    def reset(self) -> None:
        """It worked: start over with short waits."""
        self._next = min(self._first, self._longest)
        self._since = None

    def next_delay(self) -> float:
        """Seconds to wait now; the next wait is longer."""
        # Jitter keeps many producers from reconnecting in step.
        delay = self._next * random.uniform(0.75, 1.0)
        self._next = min(self._next * 2, self._longest)
        return delay

    def wait(
        self,
        error: WalExError,
        stopping: threading.Event,
        *,
        level: int = logging.WARNING,
        fields: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Log the failure, with *fields*, and wait; returns early when *stopping* is set.

        Raises:
            WalExError: *error* itself, after ``give_up_seconds`` of failures.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if self._give_up is not None and now - self._since >= self._give_up:
            raise error
        delay = self.next_delay()
        about = {"error": type(error).__name__, "retry_seconds": round(delay, 1), **fields, **error.fields}
        logger.log(level, "%s; trying again in %.1f s", error, delay, extra=about)
        stopping.wait(delay)
