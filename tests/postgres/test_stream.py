"""The replication stream, and psycopg2's habit that it guards against (promise 1)."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import SENDER_TIMEOUT_SECONDS, Database, wait_until
from walex_celery.errors import PostgresUnavailable, SlotInUse
from walex_celery.postgres.connection import connect, connect_replication
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.pgoutput import completed_lsn
from walex_celery.postgres.server import inspect_server
from walex_celery.postgres.stream import (
    ReplicationStream,
    StreamMessage,
    read_slice,
    read_slice_plainly,
)
from walex_celery.settings.model import load_settings
from walex_celery.testing.servers import Postgres

SLOT = "stream_walex"


@pytest.fixture(scope="module")
def impatient() -> Iterator[Postgres]:
    """A server that drops a receiver silent for :data:`SENDER_TIMEOUT_SECONDS`, and asks it after half of that."""
    with Postgres(settings={"fsync": "off", "wal_sender_timeout": f"{SENDER_TIMEOUT_SECONDS}s"}) as server:
        yield server


@pytest.fixture
def database(impatient: Postgres) -> Iterator[Database]:
    """A table, a publication of it, and a durable slot."""
    database = Database(impatient, impatient.create_database())
    database.execute("CREATE TABLE t (id int, pad text); CREATE PUBLICATION p FOR TABLE t")
    database.execute(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
    yield database
    impatient.drop_database(database.name)


@pytest.fixture
def settings(database: Database) -> SlotSettings:
    given = {"name": "stream", "url": database.url, "publication": "p", "durable_slot": True}
    return load_settings(given, {}).slot_settings()


@contextmanager
def streaming(settings: SlotSettings) -> Iterator[ReplicationStream]:
    connection = connect(settings.connection)
    server = inspect_server(connection, settings.connection)
    connection.close()
    stream = ReplicationStream(settings, server)
    try:
        stream.start()
        yield stream
    finally:
        stream.close()


def confirmed(database: Database) -> Lsn:
    ((lsn,),) = database.execute(
        f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
    )
    return Lsn.parse(lsn)


def commit_ends(messages: list[StreamMessage]) -> list[int]:
    return [end for end in (completed_lsn(message.payload) for message in messages) if end is not None]


def commit_around_a_long_transaction(database: Database, rows: int) -> None:
    """Commit two small transactions, then one that began before both, so that its rows lie before theirs."""
    long = database.connect()
    long.autocommit = False
    with long.cursor() as cursor:
        cursor.execute("INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, %s) g", (rows,))
        database.execute("INSERT INTO t VALUES (-1)")
        database.execute("INSERT INTO t VALUES (-2)")
        long.commit()
    long.close()


def test_psycopg2_by_itself_acknowledges_what_the_producer_did_not(
    database: Database, settings: SlotSettings
) -> None:
    """Why read() stops where it does; if this fails one day, psycopg2 has changed and the guard may go."""
    commit_around_a_long_transaction(database, rows=100_000)
    connection = connect_replication(settings.connection)
    cursor: Any = connection.cursor()  # the stubs leave its methods untyped
    cursor.start_replication_expert(
        f"START_REPLICATION SLOT {SLOT} LOGICAL 0/0 (proto_version '1', publication_names 'p')",
        decode=False,
    )

    def read() -> StreamMessage:
        message = wait_until(cursor.read_message)
        return StreamMessage(message.payload, message.data_start)

    ends: list[int] = []
    while len(ends) < 2:
        ends += commit_ends([read()])
        if len(ends) == 1:
            cursor.send_feedback(flush_lsn=ends[0], write_lsn=ends[0], force=True)
    # Only the first is acknowledged. Now the server finds us silent amid the long transaction and asks.
    for _ in range(10):
        read()
    Event().wait(SENDER_TIMEOUT_SECONDS / 2 + 0.5)
    while not commit_ends([read()]):
        pass
    try:
        wait_until(lambda: confirmed(database) >= ends[1], message="psycopg2 acknowledged the second")
    finally:
        connection.close()


def test_nothing_is_acknowledged_before_the_producer_says_so(
    database: Database, settings: SlotSettings
) -> None:
    """The same, through our stream: the guard holds, and says that all must be confirmed first."""
    commit_around_a_long_transaction(database, rows=100_000)
    with streaming(settings) as stream:
        messages: list[StreamMessage] = []
        stream.stop_at_boundary = True
        while len(commit_ends(messages)) < 2:
            # Until the second is read, nothing is pending: the first counts as confirmed at once.
            messages += stream.read(pending=False, timeout=5)
            if commit_ends(messages):
                stream.acknowledge(commit_ends(messages)[0], now=True)
        first, second = commit_ends(messages)
        # Silent long enough for the server to ask, while the second is pending: reading goes no further
        # than the first message of the long transaction, which lies before what was acknowledged.
        further = []
        for _ in range(10 * SENDER_TIMEOUT_SECONDS // 2 + 5):
            further += stream.read(pending=True, timeout=0)
            Event().wait(0.1)
        assert len(further) == 1
        assert stream.needs_confirmation
        assert first <= confirmed(database) < second
        # Once the second is confirmed, acknowledged or not, reading goes on to the end.
        ends: list[int] = []
        while not ends:
            ends = commit_ends(stream.read(pending=False, timeout=5))
        stream.acknowledge(ends[0], now=True)
        wait_until(lambda: confirmed(database) >= ends[0])


@pytest.mark.parametrize("half", [read_slice, read_slice_plainly], ids=["in use", "plain"])
@pytest.mark.parametrize(
    ("messages", "pending", "stop_at_boundary", "read", "needs_confirmation"),
    [
        # A message may be read, but nothing after it, that psycopg2 takes for acknowledged while something is pending.
        ([(b"I", 101), (b"I", 100), (b"I", 99)], True, False, 2, True),
        ([(b"I", 100), (b"I", 99)], False, False, 2, False),
        # A transaction that ends within the slice is pending from there on; so is a message outside of transactions.
        ([(b"I", 99), (b"C", 300), (b"B", 100), (b"I", 99)], False, False, 3, True),
        ([(b"M\0", 300), (b"B", 100), (b"I", 99)], False, False, 2, True),
        ([(b"C", 300), (b"B", 301), (b"C", 400)], False, False, 3, False),
        # Nothing beyond the end of a transaction, when that is waited for.
        ([(b"B", 101), (b"C", 300), (b"B", 301)], False, True, 2, False),
        ([(b"B", 101), (b"I", 101)], False, True, 2, False),
    ],
)
def test_a_slice_ends_where_something_must_be_confirmed_first(
    half: Any,
    messages: list[tuple[bytes, int]],
    pending: bool,
    stop_at_boundary: bool,
    read: int,
    needs_confirmation: bool,
) -> None:
    """What is acknowledged ends at 100: a transaction that began right after it, or before, goes on there."""
    ready = iter([SimpleNamespace(payload=payload, data_start=start) for payload, start in messages])

    found, last_start, _, must_confirm = half(
        lambda: next(ready, None), StreamMessage, 1000, 1 << 20, pending, 100, stop_at_boundary
    )

    assert [tuple(message) for message in found] == messages[:read]
    assert (last_start, must_confirm) == (messages[read - 1][1], needs_confirmation)


def test_what_psycopg2_would_acknowledge_by_itself_is_reported_and_guarded_against(
    database: Database, settings: SlotSettings
) -> None:
    """Once the end of what was read last is acknowledged, it answers the server's WAL end to each keepalive."""
    database.execute("CREATE TABLE unpublished (id int); INSERT INTO t VALUES (1)")
    with streaming(settings) as stream:
        (end,) = wait_until(lambda: commit_ends(stream.read(pending=False, timeout=1)))
        stream.acknowledge(end, now=True)
        assert stream.acknowledged_lsn == end

        # Beyond it, and nothing of it is published: only a keepalive tells.
        database.execute("INSERT INTO unpublished SELECT generate_series(1, 1000)")
        wait_until(lambda: not stream.read(pending=False, timeout=0.1) and stream.wal_end > end)
        assert stream.reported_lsn == stream.wal_end

        assert stream.read(pending=True, timeout=0) == []
        assert stream.needs_confirmation, "what is pending would be acknowledged with it"


def test_feedback_goes_out_while_the_reader_is_busy(database: Database, settings: SlotSettings) -> None:
    """Promise 6: three times wal_sender_timeout without a read does not cost the connection."""
    with streaming(settings) as stream:
        Event().wait(3 * SENDER_TIMEOUT_SECONDS + 0.5)
        database.execute("INSERT INTO t VALUES (1)")
        # A read may be ended by a keepalive, with no message; the connection is what counts.
        wait_until(lambda: commit_ends(stream.read(pending=False, timeout=1)))


def test_idle_wal_end_moves_on_with_writes_that_are_not_published(
    database: Database, settings: SlotSettings
) -> None:
    """Promise 5, the stream's part: the server tells how far it has read when there is nothing for us."""
    database.execute("CREATE TABLE unpublished (id int)")
    with streaming(settings) as stream:
        before = confirmed(database)
        database.execute("INSERT INTO unpublished SELECT generate_series(1, 10000)")

        def acknowledged() -> bool:
            assert stream.read(pending=False, timeout=0.1) == []
            stream.acknowledge(stream.wal_end, now=True)
            return confirmed(database) > before + 500_000

        wait_until(acknowledged)


def test_a_second_reader_of_a_durable_slot_is_told_that_it_is_in_use(
    database: Database, settings: SlotSettings
) -> None:
    """Promise 8."""
    with streaming(settings):
        with pytest.raises(SlotInUse, match="--standby") as caught, streaming(settings):
            pass
        assert isinstance(caught.value, RuntimeError)


def test_a_terminated_connection_is_told_as_unavailable(database: Database, settings: SlotSettings) -> None:
    with streaming(settings) as stream:
        database.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")

        def fails() -> bool:
            try:
                stream.read(pending=False, timeout=0.1)
            except PostgresUnavailable:
                return True
            return False

        wait_until(fails)


def test_wake_ends_a_read_that_waits(database: Database, settings: SlotSettings) -> None:
    with streaming(settings) as stream:
        stream.wake()
        assert stream.read(pending=False, timeout=60) == []


def test_descriptors_above_those_that_select_takes(settings: SlotSettings, database: Database) -> None:
    """An application may have many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with streaming(settings) as stream:
            database.execute("INSERT INTO t VALUES (1)")
            wait_until(lambda: stream.read(pending=False, timeout=1))
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
