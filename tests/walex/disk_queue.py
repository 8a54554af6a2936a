"""What WalEx's README tells users of ``message_middleware`` to build: messages on disk, and a consumer of them."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from walex_celery import MiddlewareError, StreamMessage

_HEAD = struct.Struct(">QI")


class DiskQueue:
    """A file that the middleware appends to, and a strictly ordered consumer in a thread of its own.

    Args:
        path: the file.
        hand_on: ``process_message_sync`` or ``process_message_async``.
        answer: what the middleware returns.
        permits: how many messages the consumer may take before :meth:`let` allows more.
    """

    def __init__(
        self,
        path: Path,
        hand_on: Callable[[StreamMessage, str], None],
        *,
        answer: Any = None,
        permits: int = 1000,
    ) -> None:
        self.stored: list[StreamMessage] = []
        self.handed_on: list[StreamMessage] = []
        self._path = path
        self._hand_on = hand_on
        self._answer = answer
        self._written = threading.Semaphore(0)
        self._permits = threading.Semaphore(permits)
        self._ending = False
        path.touch()

    def middleware(self, message: StreamMessage, app_name: str) -> Any:
        with self._path.open("ab") as file:
            file.write(_HEAD.pack(message.lsn, len(message.payload)) + message.payload)
        self.stored.append(message)
        self._written.release()
        return self._answer

    def let(self, count: int) -> None:
        """Allow the consumer so many more messages."""
        self._permits.release(count)

    def hold(self) -> None:
        """Take all permits back."""
        while self._permits.acquire(blocking=False):
            pass

    @contextmanager
    def consumed(self, app_name: str) -> Iterator[None]:
        """The consumer's thread, for a producer that runs within."""
        thread = threading.Thread(target=self._consume, args=(app_name,), name="consumer")
        thread.start()
        try:
            yield
        finally:
            self._ending = True
            self._written.release()
            self._permits.release()
            thread.join(20)
            assert not thread.is_alive()

    def _consume(self, app_name: str) -> None:
        with self._path.open("rb") as file:
            while True:
                self._written.acquire()
                self._permits.acquire()
                if self._ending:
                    return
                lsn, size = _HEAD.unpack(file.read(_HEAD.size))
                message = StreamMessage(file.read(size), lsn)
                try:
                    self._hand_on(message, app_name)
                except MiddlewareError:
                    return  # the producer has stopped; the next one gets it again
                self.handed_on.append(message)
