"""WalEx's README, "Event middleware / Back-pressure": ``message_middleware`` and what it may do."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import running, working
from tests.support.slots import confirmed_flush, written
from tests.walex.disk_queue import DiskQueue
from tests.walex.support import SCHEMA, row, wait_for
from walex_celery import (
    STORED,
    Event,
    Lsn,
    MiddlewareError,
    StreamMessage,
    WalEx,
    process_message_async,
    process_message_sync,
)
from walex_celery.testing.servers import Postgres

HandOn = Callable[[StreamMessage, str], None]

each_way = pytest.mark.parametrize(
    "hand_on", [process_message_sync, process_message_async], ids=["sync", "async"]
)


def make(app: Celery, database: Database, middleware: Callable[[StreamMessage, str], Any]) -> WalEx:
    # Feedback goes out every second then, so that a test need not wait long to see what it says.
    database.execute(f"ALTER DATABASE \"{database.name}\" SET wal_sender_timeout = '4s'")
    return WalEx(
        app,
        name="todos",
        url=database.url,
        publication="events",
        subscriptions=["user"],
        durable_slot=True,
        message_middleware=middleware,
    )


def ids(events: list[Event]) -> list[int]:
    return [row(event.new_record)["id"] for event in events]


def insert(database: Database, *numbers: int) -> Lsn:
    """Insert each in a transaction of its own; returns a position after the last."""
    connection = database.connect()
    with connection.cursor() as cursor:
        for number in numbers:
            cursor.execute('INSERT INTO "user" VALUES (%s)', [number])
    connection.close()
    return written(database)


def wait_for_feedback(database: Database) -> Lsn:
    """What the server learns is done, in feedback that was sent from now on."""
    query = "SELECT reply_time, flush_lsn FROM pg_stat_replication WHERE application_name = 'walex todos'"
    ((before, _),) = database.execute(query)
    wait_until(lambda: database.execute(query)[0][0] > before)
    ((before, _),) = database.execute(query)
    wait_until(lambda: database.execute(query)[0][0] > before)
    return Lsn.parse(database.execute(query)[0][1])


@each_way
def test_from_the_same_thread(hand_on: HandOn, todos: Database, app_on_each: Celery) -> None:
    """Order is kept, functions are enqueued, all is acknowledged."""
    app = app_on_each
    names: set[str] = set()

    def middleware(message: StreamMessage, app_name: str) -> None:
        names.add(app_name)
        hand_on(message, app_name)

    walex = make(app, todos, middleware)
    events: list[Event] = []
    done: queue.Queue[int] = queue.Queue()

    @app.task(shared=False)
    def index(event: Event) -> None:
        done.put(row(event.new_record)["id"])

    walex.on_insert("user", functions=[index])(events.extend)
    with running(walex), working(app):
        end = insert(todos, *range(20))
        assert [done.get(timeout=20) for _ in range(20)] == list(range(20))
        wait_until(lambda: confirmed_flush(todos, "todos_walex") >= end)

    assert ids(events) == list(range(20))
    assert names == {"todos"}


@each_way
def test_from_a_consumer_thread_fed_by_a_disk_file(
    hand_on: HandOn, todos: Database, app_on_each: Celery, tmp_path: Path
) -> None:
    app = app_on_each
    disk = DiskQueue(tmp_path / "messages", hand_on)
    walex = make(app, todos, disk.middleware)
    events: list[Event] = []
    done: queue.Queue[int] = queue.Queue()

    @app.task(shared=False)
    def index(event: Event) -> None:
        done.put(row(event.new_record)["id"])

    walex.on_insert("user", functions=[index])(events.extend)
    with disk.consumed("todos"), running(walex), working(app):
        end = insert(todos, *range(20))
        assert [done.get(timeout=20) for _ in range(20)] == list(range(20))
        wait_until(lambda: confirmed_flush(todos, "todos_walex") >= end)

    assert ids(events) == list(range(20))
    assert disk.handed_on == disk.stored


@each_way
def test_nothing_is_acknowledged_before_it_came_through_processing(
    hand_on: HandOn, todos: Database, app: Celery, tmp_path: Path
) -> None:
    """Promise 1. Begin, Relation, Insert, Commit of the first transaction may be taken, then Begin, Insert."""
    disk = DiskQueue(tmp_path / "messages", hand_on, permits=4 + 2)
    walex = make(app, todos, disk.middleware)
    events: list[Event] = []
    walex.on_insert("user")(events.extend)

    with disk.consumed("todos"), running(walex):
        between = insert(todos, 1)
        end = insert(todos, 2)
        wait_until(lambda: len(disk.stored) == 4 + 3)
        wait_until(lambda: confirmed_flush(todos, "todos_walex") >= Lsn(between - 8))
        assert wait_for_feedback(todos) <= between
        assert ids(events) == [1]
        disk.let(1)
        wait_until(lambda: confirmed_flush(todos, "todos_walex") >= end)

    assert ids(events) == [1, 2]


def test_what_was_not_processed_comes_again(todos: Database, app: Celery, tmp_path: Path) -> None:
    """Promise 1: a producer that stops with messages in the middleware's hands gets them again."""
    disk = DiskQueue(tmp_path / "messages", process_message_sync, permits=4)
    walex = make(app, todos, disk.middleware)
    events: list[Event] = []
    walex.on_insert("user")(events.extend)
    with disk.consumed("todos"), running(walex):
        insert(todos, 1, 2, 3)
        wait_until(lambda: len(disk.stored) == 4 + 3 + 3)
        wait_for(events, 1)

    fresh = DiskQueue(tmp_path / "more", process_message_sync)
    walex.replace_config("message_middleware", fresh.middleware)
    with fresh.consumed("todos"), running(walex):
        wait_for(events, 3)

    assert ids(events) == [1, 2, 3]


def test_what_the_middleware_says_it_stored_is_acknowledged(
    todos: Database, app: Celery, tmp_path: Path
) -> None:
    disk = DiskQueue(tmp_path / "messages", process_message_sync, answer=STORED, permits=0)
    walex = make(app, todos, disk.middleware)
    events: list[Event] = []
    walex.on_insert("user")(events.extend)

    with disk.consumed("todos"), running(walex):
        end = insert(todos, 1, 2)
        wait_until(lambda: confirmed_flush(todos, "todos_walex") >= end)
        assert not events
        disk.let(100)
        wait_for(events, 2)

    assert ids(events) == [1, 2]


def test_a_consumer_that_goes_on_in_a_new_process_tells_the_tables_again(
    todos: Database, app: Celery, tmp_path: Path
) -> None:
    """Postgres describes a table once a connection; what was stored then may need it after a restart."""
    disk = DiskQueue(tmp_path / "messages", process_message_sync, answer=STORED, permits=4)
    walex = make(app, todos, disk.middleware)
    events: list[Event] = []
    walex.on_insert("user")(events.extend)
    with disk.consumed("todos"), running(walex):
        end = insert(todos, 1, 2)
        wait_until(lambda: confirmed_flush(todos, "todos_walex") >= end)
        wait_for(events, 1)

    with running(walex):
        for message in disk.stored:
            if message.payload[:1] in (b"R", b"Y"):  # Relation, Type
                process_message_sync(message, "todos")
        for message in disk.stored[4:]:
            process_message_sync(message, "todos")

    assert ids(events) == [1, 2]


def test_a_middleware_that_loses_a_message_is_found_out(todos: Database, app: Celery) -> None:
    """And what it lost is not acknowledged: without it, the event arrives."""

    def forgetful(message: StreamMessage, app_name: str) -> None:
        if message.payload[:1] != b"I":
            process_message_async(message, app_name)

    walex = make(app, todos, forgetful)
    events: list[Event] = []
    walex.on_insert("user")(events.extend)

    with pytest.raises(MiddlewareError, match="lost or reordered"):
        insert_until_it_ends(walex, todos)
    walex.replace_config("message_middleware", process_message_async)
    with running(walex):
        wait_for(events, 1)

    assert ids(events) == [1]


def insert_until_it_ends(walex: WalEx, database: Database) -> None:
    with running(walex) as producer:
        insert(database, 1)
        wait_until(lambda: not producer.streaming.is_set())


@each_way
def test_a_connection_that_breaks_while_a_transaction_is_half_handed_on(
    hand_on: HandOn, todos: Database, app: Celery, tmp_path: Path
) -> None:
    """Promise 1: Postgres sends it again, the consumer hands the first copy's rest on, then the second copy."""
    disk = DiskQueue(tmp_path / "messages", hand_on, permits=3)
    walex = make(app, todos, disk.middleware)
    events: list[Event] = []
    walex.on_insert("user")(events.extend)

    with disk.consumed("todos"), running(walex):
        insert(todos, 1)
        wait_until(lambda: len(disk.handed_on) == 3)
        todos.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_replication")
        wait_until(lambda: len(disk.stored) == 8)
        disk.let(100)
        end = insert(todos, 2)
        wait_until(lambda: confirmed_flush(todos, "todos_walex") >= end)

    assert sorted(set(ids(events))) == [1, 2]
    assert ids(events)[-1] == 2


@pytest.fixture
def own_database() -> Iterator[Database]:
    """The tables of WalEx's README on a server that may crash."""
    with Postgres(settings={"fsync": "off"}) as server:
        database = Database(server, server.create_database())
        database.execute(SCHEMA)
        yield database


def test_a_server_that_crashed_and_forgot_an_acknowledgement(
    own_database: Database, app: Celery, tmp_path: Path
) -> None:
    """It sends again what is done, and what the consumer still holds: the first copies come first."""
    disk = DiskQueue(tmp_path / "messages", process_message_async, permits=4)
    walex = make(app, own_database, disk.middleware)
    events: list[Event] = []
    walex.on_insert("user")(events.extend)

    with disk.consumed("todos"), running(walex):
        insert(own_database, 1, 2)
        wait_until(lambda: len(disk.stored) == 4 + 3 and ids(events) == [1])
        own_database.server.restart("immediate")
        wait_until(lambda: len(disk.stored) == 7 + 4 + 3, 30)
        disk.let(100)
        end = insert(own_database, 3)
        wait_until(lambda: confirmed_flush(own_database, "todos_walex") >= end)

    assert sorted(set(ids(events))) == [1, 2, 3]


def test_a_producer_that_waits_for_its_middleware_does_not_spin(
    todos: Database, app: Celery, tmp_path: Path
) -> None:
    """A transaction that began early commits while a later one is held: reading has to wait for that."""
    disk = DiskQueue(tmp_path / "messages", process_message_async)
    walex = make(app, todos, disk.middleware)
    events: list[Event] = []
    walex.on_insert("user")(events.extend)
    early = todos.connect()
    early.autocommit = False

    with early.cursor() as cursor, disk.consumed("todos"), running(walex):
        cursor.execute('INSERT INTO "user" VALUES (1)')
        end = insert(todos, 2)
        wait_until(lambda: confirmed_flush(todos, "todos_walex") >= end)
        disk.hold()
        insert(todos, 3)
        early.commit()
        wait_until(lambda: len(disk.stored) > 4 + 3)
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "producer")
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        wall, cpu = time.monotonic(), time.clock_gettime(clock)
        wait_for_feedback(todos)
        wall, cpu = time.monotonic() - wall, time.clock_gettime(clock) - cpu
        # Promise 1: where it began is acknowledged; read on, psycopg2 would acknowledge the held one with it.
        assert len(disk.stored) == 4 + 3 + 1, "nothing is read beyond its Begin"
        disk.let(100)
        wait_for(events, 3)
    early.close()

    assert ids(events) == [2, 3, 1]
    assert cpu < wall / 10, f"{cpu:.2f} s of CPU in {wall:.2f} s of waiting"


def test_each_application_has_a_middleware_of_its_own(todos: Database, app: Celery, tmp_path: Path) -> None:
    calls: list[str] = []
    seen: list[tuple[str, int]] = []

    def middleware(message: StreamMessage, app_name: str) -> None:
        calls.append(app_name)
        process_message_sync(message, app_name)

    def add(name: str) -> WalEx:
        walex = WalEx(
            app, name=name, url=todos.url, publication="events", subscriptions=["user"],
            message_middleware=middleware,
        )  # fmt: skip

        @walex.on_insert("user")
        def inserted(events: list[Event]) -> None:
            seen.extend((name, number) for number in ids(events))

        return walex

    with running(add("one")), running(add("other")):
        insert(todos, 1)
        wait_until(lambda: len(seen) == 2)

    assert sorted(seen) == [("one", 1), ("other", 1)]
    assert {name: calls.count(name) for name in set(calls)} == {"one": 4, "other": 4}


@each_way
def test_a_producer_that_does_not_run_is_an_error(hand_on: HandOn) -> None:
    with pytest.raises(MiddlewareError, match="no producer named 'todos' runs in this process"):
        hand_on(StreamMessage(b"B" + bytes(20), 0), "todos")
