"""WalEx's README and tests, "Application Supervisor": several applications side by side, each isolated."""

from __future__ import annotations

import queue
from typing import Any

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import in_thread, make_app, running, working
from tests.support.slots import slots
from tests.walex.support import row, wait_for
from walex_celery import ConfigurationError, Event, HandlerError, Producer, WalEx


def make(app: Celery, database: Database, name: str) -> WalEx:
    return WalEx(app, name=name, url=database.url, publication="events", subscriptions=["user"])


def test_three_at_once_each_with_its_slot_and_handlers(todos: Database, app_on_each: Celery) -> None:
    """One function of two applications is two tasks: their ids differ by the application's name (promise 3)."""
    app = app_on_each
    seen: dict[str, list[Event]] = {"test_name": [], "other_name": [], "another_name": []}
    task_ids: queue.Queue[str] = queue.Queue()

    @app.task(shared=False, bind=True)
    def index(self: Any, event: Event) -> None:
        task_ids.put(self.request.id)

    walexes = [make(app, todos, name) for name in seen]
    for walex, events in zip(walexes, seen.values(), strict=True):
        walex.on_insert("user", functions=[index])(events.extend)

    first, second, third = walexes
    with running(first), running(second), running(third), working(app):
        assert sorted(slots(todos)) == [
            ("another_name_walex", True, True),
            ("other_name_walex", True, True),
            ("test_name_walex", True, True),
        ]
        todos.execute('INSERT INTO "user" VALUES (1)')
        found = {task_ids.get(timeout=20) for _ in walexes}

    assert [len(events) for events in seen.values()] == [1, 1, 1]
    assert len(found) == 3


def test_each_is_configured_for_itself(todos: Database, app: Celery) -> None:
    one, other = make(app, todos, "one"), make(app, todos, "other")
    by_one: list[Event] = []
    by_other: list[Event] = []
    one.on_event("all")(by_one.extend)
    other.on_event("all")(by_other.extend)

    with running(one), running(other):
        one.add_config("subscriptions", "todo")
        todos.execute("INSERT INTO todo VALUES (1)")
        todos.execute('INSERT INTO "user" VALUES (2)')
        wait_for(by_one, 2)
        wait_for(by_other, 1)

    assert [event.name for event in by_one] == ["todo", "user"]
    assert [event.name for event in by_other] == ["user"]


def test_one_that_fails_does_not_stop_the_others(todos: Database, app: Celery) -> None:
    failing, other = make(app, todos, "failing"), make(app, todos, "other")
    events: list[Event] = []
    other.on_insert("user")(events.extend)

    @failing.on_insert("user")
    def fails(events: list[Event]) -> None:
        raise ZeroDivisionError

    with running(other):
        with pytest.raises(HandlerError):
            insert_until_it_ends(failing, todos)
        todos.execute('INSERT INTO "user" VALUES (2)')
        wait_for(events, 2)

    assert [row(event.new_record)["id"] for event in events] == [1, 2]


def insert_until_it_ends(walex: WalEx, database: Database) -> None:
    producer = Producer(walex)
    with in_thread(producer) as failures:
        wait_until(producer.streaming.is_set)
        database.execute('INSERT INTO "user" VALUES (1)')
        wait_until(lambda: failures)


def test_a_name_is_used_once(todos: Database, app: Celery) -> None:
    make(app, todos, "todos")

    with pytest.raises(ConfigurationError, match="'todos'"):
        make(app, todos, "todos")


def test_a_producer_that_could_not_start_leaves_its_name_free(todos: Database) -> None:
    """Promise 8."""
    walex = make(make_app("nonsense://localhost"), todos, "unstartable")

    for _ in range(2):
        with pytest.raises(ConfigurationError, match="nonsense"):
            Producer(walex).run()
