"""WalEx's README, "Event": what an event says, in a batch handler and in a worker alike."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from celery import Celery

from tests.support import Database
from tests.support.producers import running, working
from tests.walex.support import row, wait_for
from walex_celery import Change, Event, Lsn, WalEx
from walex_celery.events.event import VERSION
from walex_celery.testing.servers import Postgres

CREATED_AT = datetime(2023, 8, 18, 14, 9, 5, 988369, tzinfo=timezone(timedelta(hours=-4)))


@pytest.fixture
def readme(postgres: Postgres) -> Iterator[Database]:
    """The database of WalEx's own example: its name, its table, its three columns."""
    postgres.create_database("todos")
    database = Database(postgres, "todos")
    database.execute(
        'CREATE TABLE "user" (id integer PRIMARY KEY, name varchar, created_at timestamptz);'
        'ALTER TABLE "user" REPLICA IDENTITY FULL;'
        'CREATE PUBLICATION events FOR TABLE "user"'
    )
    database.execute("INSERT INTO \"user\" VALUES (1234, 'Chase', %s)", [CREATED_AT])
    yield database
    postgres.drop_database("todos")


def test_the_update_of_walex_readme_field_by_field(readme: Database, app_on_each: Celery) -> None:
    app = app_on_each
    walex = WalEx(app, name="todos", url=readme.url, publication="events", subscriptions=["user"])
    in_producer: list[Event] = []
    in_worker: queue.Queue[Event] = queue.Queue()
    walex.on_update("user")(in_producer.extend)

    @walex.on_update("user")
    @app.task(shared=False)
    def updated(event: Event) -> None:
        in_worker.put(event)

    before = datetime.now(UTC)
    with running(walex):
        readme.execute("UPDATE \"user\" SET name = 'Chase Pursley' WHERE id = 1234")
        with working(app):
            events = [*wait_for(in_producer, 1), in_worker.get(timeout=10)]

    for event in events:
        assert event.name == "user"
        assert event.type == "update"
        assert event.source.name == "WalEx"
        assert event.source.version == VERSION
        assert event.source.db == "todos"
        assert event.source.schema == "public"
        assert event.source.table == "user"
        assert event.source.columns == {"id": "integer", "name": "varchar", "created_at": "timestamptz"}
        assert row(event.new_record) == {"id": 1234, "name": "Chase Pursley", "created_at": CREATED_AT}
        assert event.old_record is None
        assert event.changes == {"name": Change(new_value="Chase Pursley", old_value="Chase")}
        assert before - timedelta(seconds=1) <= event.timestamp <= datetime.now(UTC)
        assert event.timestamp.utcoffset() == timedelta(0)
        # WalEx's struct has an lsn too, though its example does not show it.
        assert isinstance(event.lsn, Lsn)
    assert events[0] == events[1]


def test_an_insert_has_the_new_row_only(todos: Database, app: Celery) -> None:
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["todo"])
    events: list[Event] = []
    walex.on_insert("todo")(events.extend)

    with running(walex):
        todos.execute("INSERT INTO todo VALUES (1, 7, 'write tests')")
        (event,) = wait_for(events, 1)

    assert event.type == "insert"
    assert row(event.new_record) == {"id": 1, "user_id": 7, "title": "write tests"}
    assert event.old_record is None
    assert event.changes is None


def test_a_delete_has_the_old_row_only(todos: Database, app: Celery) -> None:
    todos.execute("INSERT INTO todo VALUES (1, 7, 'write tests')")
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["todo"])
    events: list[Event] = []
    walex.on_delete("todo")(events.extend)

    with running(walex):
        todos.execute("DELETE FROM todo")
        (event,) = wait_for(events, 1)

    assert event.type == "delete"
    assert event.new_record is None
    assert row(event.old_record) == {"id": 1, "user_id": 7, "title": "write tests"}
    assert event.changes is None


def test_changes_are_none_where_postgres_does_not_tell_the_old_row(todos: Database, app: Celery) -> None:
    """Promise 7. WalEx says that nothing changed then, and its unwatched_fields drop every such update."""
    todos.execute("ALTER TABLE todo REPLICA IDENTITY DEFAULT; INSERT INTO todo VALUES (1, 7, 'write tests')")
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["todo"])
    events: list[Event] = []
    walex.on_event("todo")(events.extend)

    with running(walex):
        todos.execute("UPDATE todo SET title = 'write more tests'")
        todos.execute("DELETE FROM todo")
        update, delete = wait_for(events, 2)

    assert update.changes is None
    assert row(update.new_record) == {"id": 1, "user_id": 7, "title": "write more tests"}
    assert row(delete.old_record) == {"id": 1}


def test_an_event_says_more_than_walex(todos: Database, app: Celery) -> None:
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["todo"])
    events: list[Event] = []
    walex.on_event("todo")(events.extend)

    with running(walex):
        todos.execute("INSERT INTO todo VALUES (1), (2); UPDATE todo SET id = 3 WHERE id = 2")
        first, second, third = wait_for(events, 3)

    assert [event.index for event in events] == [0, 1, 2]
    assert {event.xid for event in events} == {first.transaction.xid}
    assert first.key == {"id": 1}
    assert second.key == {"id": 2}
    assert third.key == {"id": 3}
    assert third.old_key == {"id": 2}
    assert str(first) == f"<Event insert todo id=1 lsn={first.lsn}>"
