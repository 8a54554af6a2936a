"""Whether to let messages gather before the next are read.

Postgres writes each message of a stream to its socket separately. A reader that waits there is woken for each, and
one that polls at once finds one or two: either costs it, and Postgres, more than the message does. With no
subscription, single-row transactions went from 47,000 to 77,000 a second, for 6 us of CPU each instead of 20, and 13
of the walsender's instead of 22.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: How long they gather, in seconds. Half of it is as good in some runs, and useless in others.
GATHER_SECONDS: Final = 0.001

#: The stream is steady after this many slices in a row, each within this many seconds of the last and with fewer
#: messages than this.
STEADY_SLICES: Final = 8
STEADY_SECONDS: Final = 0.002
SMALL_SLICE: Final = 400

#: Messages a second that these slices must have brought. On a busy machine a sleep may last longer than asked: at
#: 5,000 transactions a second (15,000 messages) it delayed the slowest tasks more than it saved. A drain has 100,000.
STEADY_RATE: Final = 30_000


class Flow:
    """Whether small slices of messages come in quick succession; never while the stream is quiet.

    Args:
        clock: returns the time, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted_at = self._began_at = clock()
        self._slices = self._messages = 0
        self._fast = False

    def note(self, count: int) -> None:
        """A slice of *count* messages has been read."""
        now = self._clock()
        if 0 < count < SMALL_SLICE and now - self._noted_at < STEADY_SECONDS:
            self._slices += 1
            self._messages += count
            if self._slices == STEADY_SLICES:
                self._fast = self._messages >= STEADY_RATE * (now - self._began_at)
                self._slices, self._messages, self._began_at = 0, 0, now
        else:
            self._slices, self._messages, self._began_at = 0, 0, now
            self._fast = False
        self._noted_at = now

    @property
    def is_steady(self) -> bool:
        """Whether the next slice is likely to be small as well, and to come at once."""
        return self._fast and self._clock() - self._noted_at < STEADY_SECONDS
