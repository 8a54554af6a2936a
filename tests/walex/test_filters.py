"""WalEx's README, "Filters": unwatched_records and unwatched_fields, given to a handler."""

from __future__ import annotations

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import running
from tests.walex.support import row, wait_for
from walex_celery import Event, Filters, WalEx

README = {
    "unwatched_records": {"event_subscribe": False},
    "unwatched_fields": ["event_id", "updated_at", "todos_count"],
}


@pytest.fixture
def walex(todos: Database, app: Celery) -> WalEx:
    return WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["user"])


def ids(events: list[Event]) -> list[int]:
    return [row(event.new_record or event.old_record)["id"] for event in events]


@pytest.mark.parametrize("filters", [README, Filters(**README)], ids=["mapping", "Filters"])  # type: ignore[arg-type]
def test_an_unwatched_record_is_dropped(
    filters: Filters | dict[str, object], todos: Database, walex: WalEx
) -> None:
    """The README's filters; event_id is no column of the table, and does no harm."""
    events: list[Event] = []
    walex.on_insert("user", filters)(events.extend)

    with running(walex):
        todos.execute("INSERT INTO \"user\" VALUES (1, 'Chase', false), (2, 'Ann', true)")
        wait_for(events, 1)

    assert ids(events) == [2]


def test_an_update_goes_by_the_new_row_and_a_delete_by_the_old_one(todos: Database, walex: WalEx) -> None:
    todos.execute("INSERT INTO \"user\" VALUES (1, 'Chase', true), (2, 'Ann', false), (3, 'Bob', true)")
    events: list[Event] = []
    walex.on_event("user", Filters(unwatched_records={"event_subscribe": False}))(events.extend)

    with running(walex):
        todos.execute('UPDATE "user" SET event_subscribe = false WHERE id = 1')
        todos.execute('UPDATE "user" SET event_subscribe = true WHERE id = 2')
        todos.execute('DELETE FROM "user" WHERE id = 1')
        todos.execute('DELETE FROM "user" WHERE id = 3')
        wait_for(events, 2)

    assert [(event.type, *ids([event])) for event in events] == [("update", 2), ("delete", 3)]


def test_a_record_is_unwatched_when_all_its_values_are(todos: Database, walex: WalEx) -> None:
    events: list[Event] = []
    walex.on_insert(
        "user", {"unwatched_records": {"event_subscribe": False, "name": None}}
    )(events.extend)  # fmt: skip

    with running(walex):
        todos.execute("INSERT INTO \"user\" VALUES (1, NULL, false), (2, NULL, true), (3, 'Bob', false)")
        wait_for(events, 2)

    assert ids(events) == [2, 3]


def test_an_update_of_unwatched_fields_only_is_dropped(todos: Database, walex: WalEx) -> None:
    todos.execute("INSERT INTO \"user\" VALUES (1, 'Chase')")
    events: list[Event] = []
    walex.on_update("user", README)(events.extend)

    with running(walex):
        todos.execute('UPDATE "user" SET todos_count = 1')
        todos.execute("UPDATE \"user\" SET updated_at = now() + '1 day', todos_count = 2")
        todos.execute("UPDATE \"user\" SET name = 'Chase Pursley', todos_count = 3")
        wait_for(events, 1)

    assert set(events[0].changes or ()) == {"name", "todos_count"}


def test_a_trigger_that_sets_updated_at(todos: Database, walex: WalEx) -> None:
    """The README's case: the trigger's own update, after the user's, is the one that nobody wants."""
    todos.execute(
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        '  UPDATE "user" SET updated_at = clock_timestamp() WHERE id = NEW.id; RETURN NULL; END $$;'
        'CREATE TRIGGER touch AFTER UPDATE OF name ON "user" FOR EACH ROW EXECUTE FUNCTION touch();'
        "INSERT INTO \"user\" VALUES (1, 'Chase')"
    )
    batches: list[list[Event]] = []
    walex.on_update("user", README)(batches.append)

    with running(walex):
        todos.execute("UPDATE \"user\" SET name = 'Chase Pursley'")
        todos.execute("UPDATE \"user\" SET name = 'C. Pursley'")
        wait_until(lambda: len(batches) == 2)

    assert [[set(event.changes or ()) for event in batch] for batch in batches] == [[{"name"}], [{"name"}]]


def test_an_update_with_unknown_old_values_is_never_dropped(todos: Database, walex: WalEx) -> None:
    """Promise 7. Without REPLICA IDENTITY FULL nobody knows what changed."""
    todos.execute('ALTER TABLE "user" REPLICA IDENTITY DEFAULT; INSERT INTO "user" VALUES (1)')
    events: list[Event] = []
    walex.on_update("user", README)(events.extend)

    with running(walex):
        todos.execute('UPDATE "user" SET todos_count = 1')
        wait_for(events, 1)

    assert events[0].changes is None


def test_filters_concern_their_own_handler_only(todos: Database, walex: WalEx) -> None:
    quiet: list[Event] = []
    everything: list[Event] = []
    walex.on_insert("user", README)(quiet.extend)
    walex.on_insert("user")(everything.extend)

    with running(walex):
        todos.execute('INSERT INTO "user" VALUES (1, NULL, false), (2, NULL, true)')
        wait_for(everything, 2)

    assert ids(quiet) == [2]
