"""Which transactions a middleware was given, and which of those are done."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from walex_celery.errors import MiddlewareError
from walex_celery.postgres import pgoutput
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.stream import StreamMessage


class _Processed(NamedTuple):
    end_lsn: int
    messages: int | None


class Ledger:
    """Which transactions a middleware was given, and which of those are done.

    Nothing is acknowledged past a transaction that is not done, and a middleware that loses or reorders
    messages is found out rather than believed. A ledger outlives a connection: what Postgres sends again after
    a reconnect is the same transactions, while the middleware may still hold their first copies. Either will do.
    """

    def __init__(self) -> None:
        #: Everything up to here may be acknowledged.
        self.safe_lsn = Lsn(0)
        # How many messages each transaction that is not done has, by its end, in order. A second copy may have
        # another number: Postgres describes a table once a connection.
        self._handed: dict[int, set[int | None]] = {}
        self._last = 0
        self._processed: deque[_Processed] = deque()
        self._stored: set[int] = set()
        self._handed_messages: int | None = 0
        # Of a transaction whose Begin came through before this ledger was made only the end is known.
        self._processed_messages: int | None = None

    @property
    def in_transaction(self) -> bool:
        """Whether the middleware was given the beginning of a transaction, on this connection, and not its end."""
        return self._handed_messages != 0

    @property
    def outstanding(self) -> bool:
        """Whether a whole transaction was handed over, on this connection, that is not done."""
        return next(iter(self._handed), self._last + 1) <= self._last

    def reconnect(self) -> None:
        """Note that Postgres will send what is not done again."""
        self._last = 0
        self._handed_messages = 0

    def hand(self, message: StreamMessage) -> None:
        """Note that the middleware is about to get *message*."""
        self._handed_messages = _count(self._handed_messages, message)
        end_lsn = pgoutput.completed_lsn(message.payload)
        if end_lsn is not None:
            self._last = end_lsn
            if end_lsn > self.safe_lsn:
                self._handed.setdefault(end_lsn, {None}).add(self._handed_messages)
            self._handed_messages = 0

    def store(self, message: StreamMessage) -> None:
        """Note that the middleware answers for *message* itself."""
        end_lsn = pgoutput.completed_lsn(message.payload)
        if end_lsn is not None:
            self._stored.add(end_lsn)
            self._advance()

    def process(self, message: StreamMessage) -> None:
        """Note that *message* came through processing (not yet confirmed by the broker)."""
        self._processed_messages = _count(self._processed_messages, message)
        end_lsn = pgoutput.completed_lsn(message.payload)
        if end_lsn is not None:
            self._processed.append(_Processed(end_lsn, self._processed_messages))
            self._processed_messages = 0

    def confirm(self, end_lsn: int) -> None:
        """All that came through processing up to *end_lsn* is confirmed.

        Raises:
            MiddlewareError: something before it has not come through, or not whole.
        """
        while self._processed and self._processed[0].end_lsn <= end_lsn:
            done = self._processed.popleft()
            if done.end_lsn <= self.safe_lsn or done.end_lsn in self._stored:
                continue  # a second copy, or stored and acknowledged earlier
            expected, messages = next(iter(self._handed.items()), (0, {None}))
            if done.end_lsn < expected or not expected:
                continue  # stored by another process
            if done.end_lsn > expected or done.messages not in messages:
                numbers = " or ".join(str(number) for number in messages if number is not None)
                raise MiddlewareError(
                    f"message_middleware lost or reordered messages: of the transaction ending at "
                    f"{Lsn(expected)}, {numbers} messages were handed to it, and what came "
                    f"through processing is {done.messages or 'some'} messages ending at {Lsn(done.end_lsn)}. "
                    "Hand each message on once, in order, or return STORED for it. Nothing after it is acknowledged"
                )
            del self._handed[expected]
            self.safe_lsn = Lsn(expected)
            self._advance()

    def _advance(self) -> None:
        for end_lsn in list(self._handed):
            if end_lsn not in self._stored:
                break
            del self._handed[end_lsn]
            self._stored.discard(end_lsn)
            self.safe_lsn = Lsn(end_lsn)


def _count(before: int | None, message: StreamMessage) -> int | None:
    """Messages of a transaction so far. A stream that broke in the middle of one begins it anew."""
    if pgoutput.is_begin(message.payload):
        return 1
    return None if before is None else before + 1
