"""The connection that tasks are written to Redis through, and what its failures mean."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from walex_celery.broker.link import Link, is_login_error
from walex_celery.broker.redis.errors import fix_for, is_reply, passes, reply_text
from walex_celery.broker.templates.wire import Address
from walex_celery.errors import Fenced, PublishRefused, WalExError

logger = logging.getLogger("walex_celery.broker.redis")

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Sent:
    """A batch that was written: what each reply to it is about, and what was done for each address.

    Both in words: "LPUSH key", "PUBLISH topic"; empty for a reply that is about no message.
    """

    replies: list[str]
    of_address: dict[Address, list[str]]


class RedisConnection:
    """A connection of kombu's own pool.

    Attributes:
        channel: kombu's channel; ``None`` while there is no connection.
        generation: grows whenever a connection is opened or lost, so that nothing sent through a lost one counts.
        unanswered: the batches written through it whose replies are not read, oldest first.
        on_open: called after each connect.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.channel: Any = None
        self.generation = 0
        self.unanswered: list[Sent] = []
        self.on_open: Callable[[], object] | None = None
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

    def read_refusal(self) -> Exception | None:
        """Read a reply to what was sent; return it if it is an error.

        Raises:
            BrokerUnavailable, PublishRefused: the connection broke.
        """
        try:
            self._socket.read_response()
        except Exception as error:
            if is_reply(error):
                return error
            self.fail()
            raise self.translate(error, "did not confirm what was written") from error
        return None

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
        except Exception as error:
            self.fail()
            raise self.translate(error, problem) from error

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
        text = self.link.scrub(reply).rstrip(".")
        return PublishRefused(f"The broker {self.link.url} refused {what}: {text}.{fix_for(reply)}")
