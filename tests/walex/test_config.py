"""WalEx's README, "Config": where the database is, what is subscribed to, and changing it while it runs."""

from __future__ import annotations

import sys
from urllib.parse import urlsplit

import pytest
from celery import Celery
from psycopg2 import sql

from tests.support import Database, wait_until
from tests.support.producers import running
from tests.support.project import Project
from tests.walex.support import row, wait_for
from walex_celery import ConfigurationError, Event, WalEx
from walex_celery.pipeline.assembler import CHUNK_EVENTS


def test_separate_parts(todos: Database, app: Celery) -> None:
    url = urlsplit(todos.url)
    walex = WalEx(
        app,
        hostname=url.hostname,
        username=url.username,
        password=todos.server.password,
        port=str(url.port),
        database=todos.name,
        publication="events",
        subscriptions=["user", "todo"],
        name="MyApp",
    )
    events: list[Event] = []
    walex.on_event("all")(events.extend)

    with running(walex):
        todos.execute("INSERT INTO \"user\" VALUES (1, 'Chase'); INSERT INTO todo VALUES (2)")
        wait_for(events, 2)

    assert [event.name for event in events] == ["user", "todo"]


def test_a_url(todos: Database, app: Celery) -> None:
    url = todos.url.replace("postgresql://", "postgres://")
    walex = WalEx(app, name="todos", url=url, publication="events", subscriptions=["user"])
    events: list[Event] = []
    walex.on_event("user")(events.extend)

    with running(walex):
        todos.execute("INSERT INTO \"user\" VALUES (1, 'Chase')")
        wait_for(events, 1)

    assert walex.settings.database == todos.name
    assert walex.settings.hostname == "127.0.0.1"


def test_what_is_missing_is_one_error_naming_all() -> None:
    """Promise 8."""
    walex = WalEx(Celery(set_as_current=False))

    with pytest.raises(ConfigurationError) as caught:
        _ = walex.settings

    # Without subscriptions nothing is subscribed to; hostname, port and user have libpq's defaults.
    assert all(name in str(caught.value) for name in ("name", "database", "publication"))


def test_all_tables(todos: Database, app: Celery) -> None:
    todos.execute(
        "CREATE SCHEMA sales; CREATE TABLE sales.orders (id integer);"
        "DROP PUBLICATION events; CREATE PUBLICATION events FOR ALL TABLES"
    )
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["*"])
    events: list[Event] = []
    walex.on_event("all")(events.extend)

    with running(walex):
        todos.execute("INSERT INTO sales.orders VALUES (1); INSERT INTO unpublished VALUES (2)")
        wait_for(events, 2)

    assert [(event.source.schema, event.source.table) for event in events] == [
        ("sales", "orders"),
        ("public", "unpublished"),
    ]


def test_a_table_that_is_not_subscribed_to_is_not_seen(todos: Database, app: Celery) -> None:
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["todo"])
    events: list[Event] = []
    walex.on_event("all")(events.extend)
    walex.on_event("user")(events.extend)

    with running(walex):
        todos.execute('INSERT INTO "user" VALUES (1); INSERT INTO todo VALUES (2)')
        wait_for(events, 1)

    assert events[0].name == "todo"


# Event modules.

BASE = """
    from celery import Celery
    from walex_celery import WalEx
    app = Celery("my_app", broker="memory://", set_as_current=False)
    seen = []
"""
EVENT_MODULE = """
    from my_app.base import seen, walex

    @walex.on_insert("{table}")
    def inserted(events):
        seen.extend((__name__, event.new_record["id"]) for event in events)
"""


def test_event_modules_are_found_by_name(todos: Database, project: Project) -> None:
    project.write({
        "my_app/base.py": BASE + f"""
    walex = WalEx(app, url="{todos.url}", publication="events", subscriptions=["user", "todo"],
                  modules=["my_app.custom.whatever"])
    """,
        "my_app/events/user.py": EVENT_MODULE.format(table="user"),
        "my_app/custom/whatever.py": EVENT_MODULE.format(table="todo"),
    })  # fmt: skip
    import my_app.base as base  # type: ignore[import-not-found]

    with running(base.walex):
        todos.execute('INSERT INTO "user" VALUES (1); INSERT INTO todo VALUES (2)')
        wait_until(lambda: len(base.seen) == 2)

    assert sorted(base.seen) == [("my_app.custom.whatever", 2), ("my_app.events.user", 1)]


def test_a_module_added_while_it_runs_gets_the_next_transaction(todos: Database, project: Project) -> None:
    project.write({
        "my_app/base.py": BASE + f"""
    walex = WalEx(app, url="{todos.url}", publication="events", subscriptions=["user", "todo"])
    """,
        "my_app/events/user.py": EVENT_MODULE.format(table="user"),
        "my_app/late.py": EVENT_MODULE.format(table="user"),
    })  # fmt: skip
    import my_app.base as base

    with running(base.walex):
        todos.execute('INSERT INTO "user" VALUES (1)')
        wait_until(lambda: base.seen)
        base.walex.add_config("modules", "my_app.late")
        wait_until(lambda: "my_app.late" in sys.modules)
        todos.execute('INSERT INTO "user" VALUES (2)')
        wait_until(lambda: len(base.seen) == 3)

    assert base.seen == [("my_app.events.user", 1), ("my_app.events.user", 2), ("my_app.late", 2)]


def test_a_module_that_does_not_exist_is_refused_at_once(todos: Database, app: Celery) -> None:
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["user"])
    events: list[Event] = []
    walex.on_insert("user")(events.extend)

    with running(walex):
        with pytest.raises(ConfigurationError, match="no_such_module"):
            walex.add_config("modules", ["no_such_module"])
        todos.execute('INSERT INTO "user" VALUES (1)')
        wait_for(events, 1)


# Runtime changes.


def test_subscriptions_change_while_it_runs(todos: Database, app: Celery) -> None:
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["user"])
    events: list[Event] = []
    walex.on_insert("user")(events.extend)
    walex.on_insert("todo")(events.extend)

    with running(walex):
        todos.execute('INSERT INTO todo VALUES (1); INSERT INTO "user" VALUES (1)')
        wait_for(events, 1)
        walex.add_config("subscriptions", ["todo"])
        todos.execute("INSERT INTO todo VALUES (2)")
        wait_for(events, 2)
        walex.remove_config("subscriptions", "user")
        todos.execute('INSERT INTO "user" VALUES (3); INSERT INTO todo VALUES (3)')
        wait_for(events, 3)

    assert [(event.name, row(event.new_record)["id"]) for event in events] == [
        ("user", 1),
        ("todo", 2),
        ("todo", 3),
    ]
    assert list(map(str, walex.settings.subscriptions)) == ["todo"]


def test_a_change_takes_effect_at_the_next_transaction_boundary(todos: Database, app: Celery) -> None:
    """A handler subscribes to another table while its transaction, a large one, is still being read."""
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["user"])
    chunks: list[int] = []
    todo_ids: list[int] = []

    @walex.on_insert("user")
    def users_inserted(events: list[Event]) -> None:
        walex.add_config("subscriptions", "todo")
        chunks.append(len(events))

    @walex.on_insert("todo")
    def todos_inserted(events: list[Event]) -> None:
        todo_ids.extend(row(event.new_record)["id"] for event in events)

    with running(walex):
        todos.execute(
            'INSERT INTO "user" SELECT generate_series(1, %s); INSERT INTO todo VALUES (1);'
            'INSERT INTO "user" VALUES (0)',
            [2 * CHUNK_EVENTS],
        )
        todos.execute("INSERT INTO todo VALUES (2)")
        wait_until(lambda: todo_ids)

    assert chunks == [CHUNK_EVENTS, CHUNK_EVENTS, 1]
    assert todo_ids == [2]


def test_the_password_is_replaced_while_it_runs(todos: Database, app: Celery) -> None:
    """Nothing is lost with a durable slot (promise 1), and nothing handled twice for the new password's sake."""
    role = sql.Identifier(f"role_{todos.name}")
    connection = todos.connect()
    cursor = connection.cursor()
    cursor.execute(sql.SQL("CREATE ROLE {} LOGIN REPLICATION PASSWORD 'old'").format(role))
    try:
        walex = WalEx(
            app,
            name="todos",
            url=todos.server.url(todos.name, user=f"role_{todos.name}", password="old"),
            publication="events",
            subscriptions=["user"],
            durable_slot=True,
        )
        ids: list[int] = []

        @walex.on_insert("user")
        def users_inserted(events: list[Event]) -> None:
            ids.extend(row(event.new_record)["id"] for event in events)

        with running(walex) as producer:
            first = backend(todos)
            cursor.execute('INSERT INTO "user" VALUES (1)')
            wait_until(lambda: ids == [1])
            cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD 'new'").format(role))
            walex.replace_config("password", "new")
            cursor.execute('INSERT INTO "user" VALUES (2)')
            wait_until(lambda: producer.streaming.is_set() and backend(todos) not in (None, first))
            cursor.execute('INSERT INTO "user" VALUES (3)')
            wait_until(lambda: 3 in ids)

        assert ids == [1, 2, 3]
        assert "new" not in repr(walex.settings)
    finally:
        todos.execute("SELECT pg_drop_replication_slot('todos_walex')")
        cursor.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(role, role))
        connection.close()


def backend(database: Database) -> int | None:
    """The pid of the walsender that streams the database."""
    rows = database.execute(
        "SELECT active_pid FROM pg_replication_slots WHERE database = %s", [database.name]
    )
    return rows[0][0] if rows else None


@pytest.mark.parametrize(
    ("action", "key"),
    [
        ("add_config", "password"),
        ("remove_config", "url"),
        ("replace_config", "name"),
        ("add_config", "colour"),
    ],
)
def test_what_may_not_change_is_an_error(action: str, key: str, todos: Database, app: Celery) -> None:
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["user"])

    with pytest.raises(ConfigurationError, match=key):
        getattr(walex, action)(key, "other")
