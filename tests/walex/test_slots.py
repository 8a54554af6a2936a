"""WalEx's README, "Durable slot", and what its tests say of slots and of connections that break."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import in_thread, running
from tests.support.slots import slots
from tests.walex.support import SCHEMA, row, wait_for
from walex_celery import Event, Producer, SetupError, SlotInUse, WalEx
from walex_celery.errors import PublicationMissing
from walex_celery.postgres.connection import connect_replication
from walex_celery.testing.servers import Postgres


def make(app: Celery, database: Database, *, name: str = "todos", durable: bool = True) -> WalEx:
    return WalEx(
        app,
        name=name,
        url=database.url,
        publication="events",
        subscriptions=["user", "todo"],
        durable_slot=durable,
        slot_name="my_app_replication_slot",
    )


def ids(events: list[Event]) -> list[int]:
    return [row(event.new_record)["id"] for event in events]


def test_by_default_the_slot_is_temporary(todos: Database, app: Celery) -> None:
    walex = WalEx(app, name="MyCompany.Todos", url=todos.url, publication="events", subscriptions=["user"])
    events: list[Event] = []
    walex.on_insert("user")(events.extend)

    with running(walex):
        assert slots(todos) == [("todos_walex", True, True)]
    wait_until(lambda: not slots(todos))
    todos.execute('INSERT INTO "user" VALUES (1)')
    with running(walex):
        todos.execute('INSERT INTO "user" VALUES (2)')
        wait_for(events, 1)

    assert ids(events) == [2]


def test_a_durable_slot_brings_what_happened_while_no_producer_ran(
    todos: Database, app_on_each: Celery
) -> None:
    """Promise 1."""
    walex = make(app_on_each, todos)
    events: list[Event] = []
    walex.on_insert("user")(events.extend)

    with running(walex):
        assert slots(todos) == [("my_app_replication_slot", False, True)]
        todos.execute('INSERT INTO "user" VALUES (1)')
        wait_for(events, 1)
    todos.execute('INSERT INTO "user" VALUES (2)')
    todos.execute('INSERT INTO "user" VALUES (3)')
    wait_until(lambda: slots(todos) == [("my_app_replication_slot", False, False)])
    with running(walex):
        wait_for(events, 3)

    assert ids(events) == [1, 2, 3]


def test_a_durable_slot_in_use_is_a_runtime_error(todos: Database, app: Celery) -> None:
    """Promise 8, and WalEx's README. (WalEx's code waits instead; here that is --standby.)"""
    first, second = make(app, todos), make(app, todos, name="other_app")
    events: list[Event] = []
    for walex in (first, second):
        walex.on_insert("user")(events.extend)

    with running(first):
        with pytest.raises(SlotInUse, match="my_app_replication_slot") as caught:
            Producer(second).run()
        todos.execute('INSERT INTO "user" VALUES (1)')
        wait_for(events, 1)

    assert isinstance(caught.value, RuntimeError)
    assert "--standby" in str(caught.value)


def test_a_slot_whose_backend_has_not_noticed_yet_that_its_producer_ended_is_waited_for(
    todos: Database, app: Celery
) -> None:
    """A supervisor starts the next one at once, whatever ended the one before."""
    walex = make(app, todos)
    events: list[Event] = []
    walex.on_insert("user")(events.extend)
    with running(walex):
        pass
    wait_until(lambda: slots(todos) == [("my_app_replication_slot", False, False)])
    before = connect_replication(walex.settings.connection_settings())
    options = {"proto_version": "1", "publication_names": "events"}
    before.cursor().start_replication("my_app_replication_slot", options=options)
    noticing = threading.Timer(0.5, before.close)
    noticing.start()

    with running(walex):
        todos.execute('INSERT INTO "user" VALUES (1)')
        wait_for(events, 1)
    noticing.join()


def test_a_standby_takes_over_when_the_first_stops(
    todos: Database, app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "walex_celery")
    first, second = make(app, todos), make(app, todos, name="other_app")
    by_first: list[Event] = []
    by_second: list[Event] = []
    first.on_insert("user")(by_first.extend)
    second.on_insert("user")(by_second.extend)
    standby = Producer(second, standby=True)

    with ExitStack() as until_the_end:
        with running(first):
            until_the_end.enter_context(in_thread(standby))
            wait_until(lambda: "standing by" in caplog.text)
            assert not standby.streaming.is_set()
            todos.execute('INSERT INTO "user" VALUES (1)')
            wait_for(by_first, 1)
        todos.execute('INSERT INTO "user" VALUES (2)')
        wait_for(by_second, 1)

    assert (ids(by_first), ids(by_second)) == ([1], [2])
    wait_until(lambda: slots(todos) == [("my_app_replication_slot", False, False)])


def test_a_publication_that_does_not_exist_is_an_error_before_the_slot_is_made(
    todos: Database, app: Celery
) -> None:
    walex = WalEx(
        app,
        name="todos",
        url=todos.url,
        publication="non_existent_publication",
        subscriptions=["user"],
        durable_slot=True,
    )
    walex.on_insert("user")(print)

    with pytest.raises(PublicationMissing, match="CREATE PUBLICATION") as caught:
        Producer(walex).run()

    assert isinstance(caught.value, SetupError)
    assert slots(todos) == []


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "temporary"])
def test_it_streams_again_after_its_connection_was_terminated(
    durable: bool, todos: Database, app: Celery
) -> None:
    walex = make(app, todos, durable=durable)
    events: list[Event] = []
    walex.on_insert("user")(events.extend)

    with running(walex) as producer:
        todos.execute(
            "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots WHERE database = %s",
            [todos.name],
        )
        if durable:
            todos.execute('INSERT INTO "user" VALUES (1)')
        wait_until(
            lambda: (
                producer.streaming.is_set()
                and slots(todos) == [("my_app_replication_slot", not durable, True)]
            )
        )
        todos.execute('INSERT INTO "user" VALUES (2)')
        wait_until(lambda: 2 in ids(events))

    assert ids(events) == ([1, 2] if durable else [2])


@pytest.fixture
def own_database() -> Iterator[Database]:
    """The tables of WalEx's README on a server that may be restarted."""
    with Postgres(settings={"fsync": "off"}) as server:
        database = Database(server, server.create_database())
        database.execute(SCHEMA)
        yield database


def test_it_streams_again_after_postgres_was_restarted(own_database: Database, app: Celery) -> None:
    walex = make(app, own_database)
    events: list[Event] = []
    walex.on_insert("user")(events.extend)

    with running(walex) as producer:
        own_database.execute('INSERT INTO "user" VALUES (1)')
        wait_for(events, 1)
        own_database.server.restart()
        own_database.execute('INSERT INTO "user" VALUES (2)')
        wait_until(lambda: 2 in ids(events), 30)
        assert producer.streaming.is_set()

    assert ids(events) == [1, 2]
