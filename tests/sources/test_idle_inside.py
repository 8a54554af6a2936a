"""A keepalive inside an open transaction, or after one that is not done, acknowledges nothing (promises 1 and 5).

A WAL end after the transaction's commit would make Postgres forget it. A proxy in front of a real server holds the
stream inside of a transaction, and sends a keepalive there that says how far the WAL has been written.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.broker.support import Proxy
from tests.support import Database, shop, wait_until
from tests.support.producers import make_app, running
from tests.support.slots import confirmed, written
from walex_celery import Spool, process_message_async, process_message_sync
from walex_celery.sources.middleware import STORED

SCHEMA = "CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE items"
#: Feedback that must have come back before what it says counts.
ANSWERS = 4


def frames(source: socket.socket, *, begins_with_startup: bool) -> Iterator[bytes]:
    """The protocol's messages; the first one of a client has no type (manual, section 54.7)."""
    with source.makefile("rb") as received:
        typed = not begins_with_startup
        while True:
            head = received.read(5 if typed else 4)
            if len(head) < (5 if typed else 4):
                return
            (length,) = struct.unpack("!i", head[-4:])
            yield head + received.read(length - 4)
            typed = True


class Holding(Proxy):
    """Holds the stream after a pgoutput message, once armed, and sends a keepalive there.

    Args:
        database: which says how far the WAL has been written.
        last: as the message begins, after which it holds.
    """

    def __init__(self, database: Database, last: bytes) -> None:
        super().__init__(database.server.port)
        self._database = database
        self._last = last
        self._armed = threading.Event()
        self.held = threading.Event()
        self._released = threading.Event()
        self.wal_end = 0
        #: The flush positions of what came back since.
        self.flushed: list[int] = []

    def arm(self) -> None:
        self._armed.set()

    def release(self) -> None:
        self._released.set()

    def close(self) -> None:
        self.release()
        super().close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            of_server = source.getpeername() == self._target
            for frame in frames(source, begins_with_startup=not of_server):
                if not of_server and frame[:1] == b"d" and frame[5:6] == b"r" and self.held.is_set():
                    self.flushed.append(struct.unpack_from("!Q", frame, 14)[0])
                sink.sendall(frame)
                # XLogData: kind, start, end, time, then the data.
                if of_server and frame[:1] == b"d" and frame[5:6] == b"w" and self._is_last(frame[30:]):
                    self._hold(sink)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _is_last(self, payload: bytes) -> bool:
        return payload[:1] == self._last[:1] and payload.endswith(self._last[1:])

    def __enter__(self) -> Self:
        return self

    def _hold(self, sink: socket.socket) -> None:
        if self._armed.is_set() and not self.held.is_set():
            self.wal_end = written(self._database)
            keepalive = b"k" + struct.pack("!QQ", self.wal_end, 0) + b"\0"
            self.held.set()
            sink.sendall(b"d" + struct.pack("!i", len(keepalive) + 4) + keepalive)
            self._released.wait()


class Held:
    """A middleware that keeps what it gets until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self._messages: list[Any] = []

    def __call__(self, message: Any, name: str) -> None:
        self._messages.append(message)
        if self.opened.is_set():
            for held in self._messages:
                process_message_async(held, name)
            self._messages.clear()


def hands_on(message: Any, name: str) -> None:
    process_message_sync(message, name)


def stores(message: Any, name: str) -> Any:
    process_message_async(message, name)
    return STORED


WAYS: dict[str, Callable[[Path], Any]] = {
    "stream": lambda folder: None,
    "spool": Spool,
    "middleware": lambda folder: hands_on,
    "storing middleware": lambda folder: stores,
    "holding middleware": lambda folder: Held(),
}


@pytest.mark.parametrize(
    ("way", "last"),
    # Not the first row: where it begins psycopg2 takes for acknowledged, and answers the keepalive itself.
    [*((way, b"I2") for way in WAYS), ("holding middleware", b"C")],
    ids=str,
)
def test_a_keepalive_acknowledges_no_transaction_that_is_not_done(
    database: Database, redis_url: str, tmp_path: Path, way: str, last: bytes
) -> None:
    database.execute(SCHEMA)
    middleware = WAYS[way](tmp_path / "spool")
    with Holding(database, last) as proxy:
        walex = shop.make_walex(
            make_app(redis_url),
            database,
            url=database.url.replace(f":{database.server.port}/", f":{proxy.port}/"),
            sslmode="disable",
            message_middleware=middleware,
        )
        events = shop.collect(walex)
        # So that feedback comes often.
        database.execute(f"ALTER DATABASE {database.name} SET wal_sender_timeout = '4s'")
        with running(walex, timeout=60):
            # Once something was acknowledged, as usual.
            if not isinstance(middleware, Held):
                database.execute("INSERT INTO items VALUES (0)")
                before = written(database)
                wait_until(lambda: confirmed(database) >= before, 30)
            proxy.arm()
            database.execute("INSERT INTO items VALUES (1), (2)")
            assert proxy.held.wait(30)
            wait_until(lambda: len(proxy.flushed) >= ANSWERS, 60, "the producer has answered")
            assert max(proxy.flushed) < proxy.wal_end

            if isinstance(middleware, Held):
                middleware.opened.set()
            proxy.release()
            database.execute("INSERT INTO items VALUES (3)")
            end = written(database)
            wait_until(lambda: confirmed(database) >= end, 60)

    assert [event.key for event in events][-3:] == [{"id": 1}, {"id": 2}, {"id": 3}]
