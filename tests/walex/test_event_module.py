"""WalEx's README, "Event Module": on_event, on_insert, on_update, on_delete."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import running
from tests.walex.support import row, wait_for
from walex_celery import Event, Filters, HandlerError, WalEx


def make(app: Celery, database: Database) -> WalEx:
    return WalEx(app, name="todos", url=database.url, publication="events", subscriptions=["user", "todo"])


def test_each_handler_gets_what_its_name_says(todos: Database, app_on_each: Celery) -> None:
    walex = make(app_on_each, todos)
    seen: dict[str, list[str]] = {"all": [], "event": [], "insert": [], "update": [], "delete": []}

    def note(name: str) -> Callable[[list[Event]], None]:
        return lambda events: seen[name].extend(f"{event.type} {event.name}" for event in events)

    walex.on_event("all")(note("all"))
    walex.on_event("user")(note("event"))
    walex.on_insert("user")(note("insert"))
    walex.on_update("user")(note("update"))
    walex.on_delete("user")(note("delete"))

    with running(walex):
        todos.execute("INSERT INTO \"user\" VALUES (1, 'Chase')")
        todos.execute("UPDATE \"user\" SET name = 'Chase Pursley'")
        todos.execute("INSERT INTO todo VALUES (1)")
        todos.execute('DELETE FROM "user"')
        wait_until(lambda: len(seen["all"]) == 4)

    assert seen == {
        "all": ["insert user", "update user", "insert todo", "delete user"],
        "event": ["insert user", "update user", "delete user"],
        "insert": ["insert user"],
        "update": ["update user"],
        "delete": ["delete user"],
    }


def test_several_handlers_of_one_table_are_called_in_the_order_registered(
    todos: Database, app: Celery
) -> None:
    """Promise 2. A WalEx module has one handler of each kind."""
    walex = make(app, todos)
    calls: list[str] = []
    for name in ("first", "second", "third"):
        walex.on_insert("user")(lambda events, name=name: calls.append(name))

    with running(walex):
        todos.execute('INSERT INTO "user" VALUES (1)')
        todos.execute('INSERT INTO "user" VALUES (2)')
        wait_until(lambda: len(calls) == 6)

    assert calls == ["first", "second", "third"] * 2


def test_events_of_one_transaction_come_as_one_list(todos: Database, app: Celery) -> None:
    walex = make(app, todos)
    batches: list[list[Event]] = []
    walex.on_insert("user")(batches.append)

    with running(walex):
        todos.execute('INSERT INTO "user" VALUES (1), (2); INSERT INTO "user" VALUES (3)')
        todos.execute('INSERT INTO "user" VALUES (4)')
        wait_until(lambda: len(batches) == 2)

    assert [[row(event.new_record)["id"] for event in batch] for batch in batches] == [[1, 2, 3], [4]]


def test_a_trigger_that_updates_after_an_insert(todos: Database, app: Celery) -> None:
    """The README's reason why events are a list. Promise 2: in the order they happened; WalEx's are reversed."""
    todos.execute(
        "CREATE FUNCTION greet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        "  UPDATE \"user\" SET name = 'Dear ' || name WHERE id = NEW.id; RETURN NULL; END $$;"
        'CREATE TRIGGER greet AFTER INSERT ON "user" FOR EACH ROW EXECUTE FUNCTION greet()'
    )
    walex = make(app, todos)
    batches: list[list[Event]] = []
    walex.on_event("user")(batches.append)

    with running(walex):
        todos.execute("INSERT INTO \"user\" VALUES (1, 'Chase')")
        wait_until(lambda: batches)

    ((insert, update),) = batches
    assert (insert.type, update.type) == ("insert", "update")
    assert row(insert.new_record)["name"] == "Chase"
    assert row(update.new_record)["name"] == "Dear Chase"
    assert insert.xid == update.xid
    assert insert.lsn == update.lsn


def test_a_rolled_back_transaction_is_not_seen(todos: Database, app: Celery) -> None:
    walex = make(app, todos)
    events: list[Event] = []
    walex.on_event("all")(events.extend)
    connection = todos.connect()
    connection.autocommit = False

    with running(walex):
        with connection.cursor() as cursor:
            cursor.execute('INSERT INTO "user" VALUES (1)')
        connection.rollback()
        todos.execute('INSERT INTO "user" VALUES (2)')
        wait_for(events, 1)
    connection.close()

    assert row(events[0].new_record)["id"] == 2


def test_a_table_of_another_schema(todos: Database, app: Celery) -> None:
    """WalEx goes by the name alone: its subscription to "user" sees every schema's."""
    todos.execute(
        'CREATE SCHEMA sales; CREATE TABLE sales."user" (id integer);'
        'ALTER PUBLICATION events ADD TABLE sales."user"'
    )
    walex = WalEx(
        app, name="todos", url=todos.url, publication="events", subscriptions=["user", "sales.user"]
    )
    public: list[Event] = []
    sales: list[Event] = []
    walex.on_insert("user")(public.extend)
    walex.on_insert("sales:user")(sales.extend)

    with running(walex):
        todos.execute('INSERT INTO "user" VALUES (1); INSERT INTO sales."user" VALUES (2)')
        wait_for(sales, 1)

    assert [event.source.schema for event in public + sales] == ["public", "sales"]


def test_truncates_and_messages_come_too(todos: Database, app: Celery) -> None:
    walex = make(app, todos)
    events: list[Event] = []
    walex.on_truncate("todo")(events.extend)
    walex.on_message("todos")(events.extend)

    with running(walex):
        todos.execute("TRUNCATE todo")
        todos.execute("SELECT pg_logical_emit_message(true, 'todos', 'spring cleaning')")
        truncate, message = wait_for(events, 2)

    assert (truncate.type, truncate.name) == ("truncate", "todo")
    assert (message.type, message.name, message.content) == ("message", "todos", b"spring cleaning")


def test_a_handler_that_raises_stops_the_producer_and_acknowledges_nothing(
    todos: Database, app: Celery
) -> None:
    """Promise 1. WalEx restarts its processes, and may lose the transaction."""
    events: list[Event] = []

    def make_durable(name: str) -> WalEx:
        return WalEx(
            app, name=name, url=todos.url, publication="events", subscriptions=["user"],
            durable_slot=True, slot_name="todos",
        )  # fmt: skip

    failing, mended = make_durable("failing"), make_durable("mended")

    @failing.on_insert("user")
    def fails(events: list[Event]) -> None:
        raise ZeroDivisionError("Process error")

    mended.on_insert("user", Filters())(events.extend)
    with pytest.raises(HandlerError, match="ZeroDivisionError: Process error"):
        insert_until_it_ends(failing, todos)
    with running(mended):
        wait_for(events, 1)

    assert row(events[0].new_record)["id"] == 1


def insert_until_it_ends(walex: WalEx, database: Database) -> None:
    with running(walex) as producer:
        database.execute('INSERT INTO "user" VALUES (1)')
        wait_until(lambda: not producer.streaming.is_set())
