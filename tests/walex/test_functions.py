"""WalEx's README, "Functions": what is done for each event, here by Celery's workers."""

from __future__ import annotations

import queue
from typing import Any

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import running, working
from tests.support.project import Project
from tests.support.slots import slots
from tests.walex.support import row, wait_for
from walex_celery import ConfigurationError, Event, Filters, WalEx
from walex_celery.events.task_id import parse_task_id

# Three ways to name a function: an attribute of the handler's module, the name of a task, the task itself.
PROJECT = {
    "my_app/celery.py": """
        from celery import Celery
        from walex_celery import WalEx

        app = Celery("my_app")
        walex = WalEx(app, publication="events", subscriptions=["user"])
        """,
    "my_app/tasks.py": """
        import os
        from my_app.celery import app

        def note(*what):
            with open("done.txt", "a") as done:
                print(*what, os.getpid(), file=done)

        def note_event(task, event):
            note(task.name, type(event).__name__, event.new_record["name"], event.new_record["id"])

        @app.task(bind=True)
        def add_to_crm(self, event):
            note_event(self, event)

        @app.task(bind=True)
        def clear_cache(self, event):
            note_event(self, event)
        """,
    "my_app/events/user.py": """
        from my_app.celery import app, walex
        from my_app.tasks import clear_cache, note, note_event

        FILTERS = {"unwatched_records": {"event_subscribe": False}}
        FUNCTIONS = ["send_welcome_email", "my_app.tasks.add_to_crm", clear_cache]

        @walex.on_insert("user", FILTERS, FUNCTIONS)
        def users_inserted(users):
            note("batch", len(users))

        @app.task(bind=True)
        def send_welcome_email(self, user):
            note_event(self, user)
        """,
}


def test_functions_run_in_a_worker_of_another_process(
    todos: Database, broker_url: str, project: Project
) -> None:
    """The README's example. The worker needs no database: it is told nothing of it."""
    project.write(PROJECT)
    worker = ("-A", "my_app", "worker", "--pool", "solo")
    producer = ("-A", "my_app", "walex", "producer")
    done = project.folder / "done.txt"

    with (
        project.command(*worker, CELERY_BROKER_URL=broker_url),
        project.command(*producer, CELERY_BROKER_URL=broker_url, WALEX_URL=todos.url),
    ):
        wait_until(lambda: "streaming from" in project.output(*producer), 20)
        todos.execute(
            "INSERT INTO \"user\" VALUES (1, 'Chase', true), (2, 'Nobody', false), (3, 'Ann', true)"
        )
        wait_until(lambda: done.exists() and len(done.read_text().splitlines()) == 7, 20)

    batch, *tasks = [line.split() for line in done.read_text().splitlines()]
    functions = [
        "my_app.events.user.send_welcome_email",
        "my_app.tasks.add_to_crm",
        "my_app.tasks.clear_cache",
    ]
    assert batch[:2] == ["batch", "2"]
    assert [task[:4] for task in tasks] == [
        [function, "WireEvent", name, number]
        for name, number in (("Chase", "1"), ("Ann", "3"))
        for function in functions
    ]
    assert len({task[4] for task in tasks} | {batch[2]}) == 2


def test_retry_keeps_the_event(todos: Database, app_on_each: Celery) -> None:
    """WalEx's functions are tried once; a Celery task may say ``self.retry()``."""
    app = app_on_each
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["user"])
    tries: queue.Queue[tuple[str, int, Event]] = queue.Queue()

    @walex.on_insert("user")
    @app.task(shared=False, bind=True, max_retries=2, default_retry_delay=0)
    def send_welcome_email(self: Any, user: Event) -> None:
        tries.put((self.request.id, self.request.retries, user))
        if self.request.retries < 2:
            raise self.retry(exc=ConnectionError("the mail server is away"))

    with running(walex), working(app):
        todos.execute("INSERT INTO \"user\" VALUES (1, 'Chase Pursley')")
        found = [tries.get(timeout=20) for _ in range(3)]

    assert [number for _, number, _ in found] == [0, 1, 2]
    assert len({task_id for task_id, _, _ in found}) == 1
    for _, _, event in found:
        assert isinstance(event, Event)
        assert event == found[0][2]
        assert row(event.new_record)["name"] == "Chase Pursley"


def test_a_tasks_id_leads_back_to_its_event(todos: Database, app: Celery) -> None:
    """Promise 3."""
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["todo"])
    found: queue.Queue[tuple[str, Event]] = queue.Queue()

    @walex.on_insert("todo")
    @app.task(shared=False, bind=True)
    def index(self: Any, event: Event) -> None:
        found.put((self.request.id, event))

    with running(walex), working(app):
        todos.execute("INSERT INTO todo VALUES (1), (2)")
        pairs = [found.get(timeout=20) for _ in range(2)]

    for task_id, event in pairs:
        assert (parse_task_id(task_id).lsn, parse_task_id(task_id).index) == (event.lsn, event.index)


def test_a_function_that_fails_stops_nobody_else(todos: Database, app: Celery) -> None:
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["todo"])
    found: queue.Queue[int] = queue.Queue()

    @app.task(shared=False)
    def fails(event: Event) -> None:
        raise ZeroDivisionError

    @app.task(shared=False)
    def works(event: Event) -> None:
        found.put(row(event.new_record)["id"])

    @walex.on_insert("todo", functions=[fails, works])
    def inserted(events: list[Event]) -> None:
        pass

    with running(walex), working(app):
        todos.execute("INSERT INTO todo VALUES (1)")
        todos.execute("INSERT INTO todo VALUES (2)")
        assert [found.get(timeout=20) for _ in range(2)] == [1, 2]


def test_a_handlers_list_is_filtered_before_its_functions(todos: Database, app: Celery) -> None:
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["user"])
    found: queue.Queue[int] = queue.Queue()
    batch: list[Event] = []

    @app.task(shared=False)
    def clear_cache(event: Event) -> None:
        found.put(row(event.new_record)["id"])

    walex.on_update("user", Filters(unwatched_fields=("todos_count",)), [clear_cache])(batch.extend)
    todos.execute('INSERT INTO "user" VALUES (1), (2)')

    with running(walex), working(app):
        todos.execute('UPDATE "user" SET todos_count = 1')
        todos.execute("UPDATE \"user\" SET name = 'Ann' WHERE id = 2")
        assert found.get(timeout=20) == 2

    assert found.empty()
    assert len(batch) == 1


def test_two_handlers_with_one_function_are_one_task(todos: Database, app: Celery) -> None:
    """A task's id is its event's and function's (promise 3), so that the second would be the first again."""
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["todo"])
    found: queue.Queue[int] = queue.Queue()

    @app.task(shared=False)
    def index(event: Event) -> None:
        found.put(row(event.new_record)["id"])

    events: list[Event] = []
    walex.on_event("todo", functions=[index])(events.extend)
    walex.on_insert("todo", functions=[index])(events.extend)

    with running(walex), working(app):
        todos.execute("INSERT INTO todo VALUES (1)")
        todos.execute("INSERT INTO todo VALUES (2)")
        assert [found.get(timeout=20) for _ in range(2)] == [1, 2]
        wait_for(events, 4)

    assert found.empty()


def test_a_function_that_nobody_defined_is_told_before_the_slot_is_touched(
    todos: Database, app: Celery
) -> None:
    """Promise 8. WalEx finds out when the first event comes."""
    walex = WalEx(
        app, name="todos", url=todos.url, publication="events", subscriptions=["user"], durable_slot=True
    )
    walex.on_insert("user", None, ["send_welcome_emial"])(list)

    with pytest.raises(ConfigurationError, match="send_welcome_emial"), running(walex):
        pass

    assert slots(todos) == []
