"""What other threads ask of a running producer: to stop, to pause, to apply a change."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Control:
    """Requests to a producer's thread. All methods may be called from any thread, or from a signal handler.

    Attributes:
        stopping: set once it is to stop.
        pausing: set while it is to read nothing.
        change_waits: whether settings or handlers have changed that are not applied yet.
        asked: to stop or to change something: looked at after each message, where an Event would take longer.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.pausing = threading.Event()
        self.asked = False
        self.change_waits = False
        self._woken = threading.Event()
        self._wake_source: Callable[[], None] | None = None

    def stop(self) -> None:
        """Ask the producer to stop."""
        self.stopping.set()
        self.asked = True
        self.wake()

    def pause(self) -> None:
        """Ask it to read nothing."""
        self.pausing.set()
        self.wake()

    def resume(self) -> None:
        """Ask it to read on."""
        self.pausing.clear()
        self.wake()

    def change(self) -> None:
        """Ask it to apply the settings and handlers that are there by now."""
        self.change_waits = True
        self.asked = True
        self.wake()

    def wakes(self, wake_source: Callable[[], None]) -> None:
        """Have *wake_source* called with each request: it ends a wait for something to read."""
        self._wake_source = wake_source

    def wake(self) -> None:
        """End whatever the producer waits in."""
        self._woken.set()
        if self._wake_source is not None:
            self._wake_source()

    def take_change(self) -> None:
        """Note that the change is being applied."""
        self.change_waits = False
        self.asked = self.stopping.is_set()

    def clear_wake(self) -> None:
        """Forget the requests so far, before looking at them and then waiting for another."""
        self._woken.clear()

    def wait(self, seconds: float) -> None:
        """Wait for a request made since :meth:`clear_wake`."""
        self._woken.wait(seconds)
