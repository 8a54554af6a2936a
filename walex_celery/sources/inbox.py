"""Messages that a middleware handed on, waiting for the producer's thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from walex_celery.errors import MiddlewareError
from walex_celery.postgres.stream import StreamMessage

#: Another thread that hands messages on waits while this many bytes are queued.
INBOX_BYTES: Final = 64 * 1024 * 1024


class _Ticket:
    """A message in the queue, and what became of it."""

    __slots__ = ("awaited", "done", "error", "message")

    def __init__(self, message: StreamMessage, awaited: bool) -> None:
        self.message = message
        self.awaited = awaited
        self.done = threading.Event()
        self.error: BaseException | None = None


class Inbox:
    """A queue into the producer's thread, bounded in bytes.

    Args:
        wake: called when something was put by another thread.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._tickets: deque[_Ticket] = deque()
        self._room = threading.Condition()
        self._bytes = 0
        self._closed = False
        self._thread = threading.get_ident()

    def put(self, message: StreamMessage, *, awaited: bool = False) -> _Ticket:
        """Queue *message*; waits for room, unless called in the producer's own thread, which makes room."""
        own = self.is_own_thread
        ticket = _Ticket(message, awaited)
        with self._room:
            while not own and self._bytes > INBOX_BYTES and not self._closed:
                self._room.wait()
            if self._closed:
                raise MiddlewareError("the producer has stopped; the message was not processed")
            self._tickets.append(ticket)
            self._bytes += len(message.payload)
        if not own:
            self._wake()
        return ticket

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller runs in the producer's thread."""
        return threading.get_ident() == self._thread

    def wait(self, ticket: _Ticket) -> None:
        """Wait until *ticket* has been processed; raises MiddlewareError if the producer stopped instead."""
        ticket.done.wait()
        if ticket.error is not None:
            raise MiddlewareError("the producer stopped before the message was processed") from ticket.error

    def drain(self, process: Callable[[StreamMessage], None], settle: Callable[[], None]) -> bool:
        """Process what is queued, in order, in the producer's thread; whether there was anything.

        *settle* is called before those who wait for their message (``awaited``) are released.
        """
        found = False
        while self._tickets:
            found = True
            with self._room:
                ticket = self._tickets.popleft()
                self._bytes -= len(ticket.message.payload)
                self._room.notify_all()
            try:
                process(ticket.message)
                if ticket.awaited:
                    settle()
            except BaseException as error:
                ticket.error = error
                raise
            finally:
                ticket.done.set()
        return found

    def close(self) -> None:
        """Refuse what comes, and release who waits."""
        with self._room:
            self._closed = True
            tickets, self._tickets = list(self._tickets), deque()
            self._room.notify_all()
        for ticket in tickets:
            ticket.error = MiddlewareError("the producer has stopped")
            ticket.done.set()
