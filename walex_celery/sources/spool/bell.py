"""Waking a thread that waits."""

from __future__ import annotations

import select
import socket
from contextlib import suppress


class Bell:
    """Rung by any thread, or by a signal handler, which may take no lock; one thread waits for it.

    A ring while no thread waits ends the next :meth:`wait`.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    def ring(self) -> None:
        """Wake who waits."""
        # BlockingIOError: it rings already. Another OSError: closed, so no thread waits.
        with suppress(OSError):
            self._writer.send(b"\0")

    def wait(self, timeout: float) -> None:
        """Wait for a ring, *timeout* seconds at most."""
        if self._poll.poll(timeout * 1000):
            with suppress(BlockingIOError):
                while self._reader.recv(512):
                    pass

    def close(self) -> None:
        """Close the sockets; no thread may wait again."""
        self._reader.close()
        self._writer.close()
