"""The connection that tasks are written to Redis through, and what its failures mean."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from walex_celery.broker.link import Link, is_login_error
from walex_celery.broker.redis.errors import FalseReply, is_reply, is_too_large, passes, refusal, reply_text
from walex_celery.broker.templates.wire import Address
from walex_celery.errors import BrokerUnavailable, Fenced, PublishRefused, WalExError

logger = logging.getLogger("walex_celery.broker.redis")

Answer = TypeVar("Answer")

#: A server that has not refused a size by then accepts it.
ACCEPTED_SECONDS: Final = 2.0


class Expected(NamedTuple):
    """The reply that confirms a command: an integer of *least* to *most*.

    Attributes:
        operation: the command, in words: "LPUSH key", "PUBLISH topic".
        least: an LPUSH of five messages is answered by the length of the list, which is at least five.
        most: None for no limit.
    """

    operation: str
    least: int = 0
    most: int | None = None

    def confirms(self, reply: object) -> bool:
        """Whether *reply* is such an integer."""
        if type(reply) is not int:
            return False
        return self.least <= reply and (self.most is None or reply <= self.most)

    def __str__(self) -> str:
        """The integer, in words."""
        if self.least == self.most:
            return f"the integer {self.least}"
        return f"an integer of at least {self.least}" + (f", at most {self.most}" if self.most else "")


@dataclass(slots=True)
class Sent:
    """A batch that was written: the replies that confirm it, and what was done for each address, in words."""

    replies: list[Expected]
    of_address: dict[Address, list[str]]


class RedisConnection:
    """A connection of kombu's own pool.

    Attributes:
        channel: kombu's channel; ``None`` while there is no connection.
        generation: grows whenever a connection is opened or lost, so that nothing sent through a lost one counts.
        unanswered: the batches written through it whose replies are not read, oldest first.
        on_open: called after each connect.
        was_lost: a connection was lost, and nothing has been confirmed since.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.channel: Any = None
        self.generation = 0
        self.unanswered: list[Sent] = []
        self.on_open: Callable[[], object] | None = None
        self.was_lost = False
        self._socket: Any = None  # a redis.Connection
        self._pool: Any = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as known."""
        return self._socket is not None

    def open(self) -> None:
        """Connect if needed.

        Raises:
            BrokerUnavailable, PublishRefused: it can't be reached, or refused the login.
        """
        if self._socket is not None:
            return
        link = self.link
        try:
            link.connect()
            channel: Any = link.connection.default_channel
            pool = channel.pool
            connection = pool.get_connection()
            connection.connect()
        except WalExError:
            raise
        except Exception as error:
            self.fail()
            raise self.translate(error, "could not be reached") from error
        self.channel, self._pool, self._socket = channel, pool, connection
        self.generation += 1
        if self.on_open is not None:
            self.on_open()

    def is_stale(self) -> bool:
        """Whether the server closed the idle connection (its ``timeout``); then it is dropped."""
        try:
            if not self._socket.can_read(0):
                return False
        except Exception as error:
            logger.debug("idle connection lost: %r", error)
        self.fail()
        return True

    def fail(self) -> None:
        """Drop the connection; what its unread replies would have said is unknown."""
        self._release()
        self.channel = self._pool = None
        self.unanswered = []
        self.was_lost = True
        self.generation += 1
        self.link.next_host()

    def close(self) -> None:
        """Close the connection; never raises."""
        self._release()
        self.link.close()

    def _release(self) -> None:
        socket, self._socket = self._socket, None
        with contextlib.suppress(Exception):
            if socket is not None:
                socket.disconnect()
                self._pool.release(socket)

    def send(self, packed: bytes, problem: Callable[[], str]) -> None:
        """Write commands; *problem* words the error if that fails."""
        try:
            self._socket.send_packed_command([packed], check_health=False)
        except Exception as error:
            self.fail()
            raise self.translate(error, problem()) from error

    def read_refusal(self, expected: Expected) -> Exception | None:
        """Read a reply to what was sent; return it if it is an error.

        Raises:
            BrokerUnavailable, PublishRefused: the connection broke, or the reply is neither an error nor *expected*.
        """
        try:
            reply = self._socket.read_response()
        except Exception as error:
            if is_reply(error):
                return error
            self.fail()
            raise self.translate(error, "did not confirm what was written") from error
        if not expected.confirms(reply):
            self.fail()
            raise self.violation(expected.operation, reply, str(expected))
        self.was_lost = False
        return None

    def violation(self, command: str, reply: object, expected: str) -> BrokerUnavailable:
        """Return the error for a reply that such a command never has: it confirms nothing."""
        return self.link.unavailable(
            f"answered {command} with {repr(reply)[:100]}, where only {expected} confirms it (protocol error: does "
            "broker_url lead to a proxy that answers by itself?)"
        )

    def ask(self, step: Callable[[Any], Answer], problem: str) -> Answer:
        """Return what *step* returns for a client of another connection.

        Raises:
            Fenced: passed on.
            BrokerUnavailable, PublishRefused: anything else went wrong; *problem* words it.
        """
        try:
            with self.channel.conn_or_acquire() as client:
                return step(client)
        except Fenced:
            raise
        except FalseReply as error:
            self.fail()
            raise self.violation("EVAL", error.reply, error.expected) from error
        except Exception as error:
            self.fail()
            raise self.translate(error, problem) from error

    def longest_bulk_bytes(self) -> int | None:
        """Return the size of the largest message that the server accepts; ``None`` if it may not be asked.

        Raises:
            BrokerUnavailable, PublishRefused: it could not be asked.
        """
        name = "proto-max-bulk-len"

        def read(client: Any) -> int | None:
            try:
                return int(client.config_get(name)[name])
            except Exception as error:
                if isinstance(error, LookupError) or (is_reply(error) and not passes(error)):
                    return None
                raise

        return self.ask(read, "did not say how large a message may be")

    def accepts_bulk(self, size_bytes: int) -> bool:
        """Whether the server accepts a message of that size: it refuses one when it has read its size.

        Raises:
            BrokerUnavailable, PublishRefused: it could not be asked.
        """

        def announce(_: Any) -> bool:
            socket = self._pool.get_connection()
            try:
                socket.send_packed_command([b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % size_bytes], check_health=False)
                if socket.can_read(ACCEPTED_SECONDS):
                    socket.read_response()
            except Exception as error:
                if is_reply(error) and is_too_large(error):
                    return False
                raise
            finally:
                socket.disconnect()
                self._pool.release(socket)
            return True

        return self.ask(announce, "did not say how large a message may be")

    def prefixed(self, key: str) -> str:
        """Return a key with kombu's ``global_keyprefix``."""
        return f"{self.channel.global_keyprefix}{key}"

    def translate(self, error: Exception, problem: str) -> WalExError:
        """Return the error to raise for one of redis-py's."""
        if is_login_error(error) or (is_reply(error) and not passes(error)):
            return self.refusal(reply_text(error), "its tasks" if problem.startswith("did") else problem)
        return self.link.unavailable(problem, error)

    def refusal(self, reply: str, what: str) -> PublishRefused:
        """Return the error for what the server refused, with the fix where one is known."""
        return refusal(self.link, reply, what)
