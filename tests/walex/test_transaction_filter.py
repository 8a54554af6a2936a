"""WalEx.TransactionFilter: its helpers, under Pythonic names, on the events of a real transaction."""

from __future__ import annotations

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import running
from tests.walex.support import row
from walex_celery import Change, ConfigurationError, Event, WalEx
from walex_celery.filters import (
    RelationFilter,
    contains_unwatched_records,
    filter_changes,
    filter_subscribed,
    filter_unwatched_fields,
    filter_unwatched_records,
    has_table,
    has_watched_change,
    is_delete_event,
    is_insert_event,
    is_truncate_event,
    is_type,
    is_update_event,
    is_watched_record,
    map_changes,
    map_columns,
    matches,
    parse_relation_filter,
    subscribes,
    subscribes_to_table,
)


@pytest.fixture
def transaction(todos: Database, app: Celery) -> list[Event]:
    """insert user 1, insert todo 2, update user 1 (todos_count), update user 1 (name), delete todo 2."""
    walex = WalEx(app, name="todos", url=todos.url, publication="events", subscriptions=["*"])
    batches: list[list[Event]] = []
    walex.on_event("all")(batches.append)
    with running(walex):
        todos.execute(
            "INSERT INTO \"user\" VALUES (1, 'Chase', false); INSERT INTO todo VALUES (2, 1, 'test');"
            'UPDATE "user" SET todos_count = 1; UPDATE "user" SET name = \'Chase Pursley\';'
            "DELETE FROM todo"
        )
        wait_until(lambda: batches)
    return batches[0]


def told(events: list[Event]) -> list[str]:
    return [f"{event.type} {event.name}" for event in events]


@pytest.mark.parametrize(
    ("event", "relation", "expected"),
    [
        ("*", "*", True),
        ("INSERT", "*", True),
        ("UPDATE", "*", True),
        ("TRUNCATE", "*", False),
        ("INSERT", "public", True),
        ("INSERT", "myschema", False),
        ("INSERT", "public:todo", True),
        ("UPDATE", "public:todo", False),
        ("INSERT", "myschema:todo", False),
        ("*", "public:todo:bad", False),
    ],
)
def test_matches(event: str, relation: str, expected: bool, transaction: list[Event]) -> None:
    assert matches({"event": event, "relation": relation}, transaction) is expected


def test_a_malformed_pattern_matches_nothing(transaction: list[Event]) -> None:
    assert not matches({}, transaction)


def test_parse_relation_filter() -> None:
    assert parse_relation_filter("public:users") == RelationFilter("public", "users")
    assert parse_relation_filter("public") == RelationFilter("public", None)
    assert parse_relation_filter("*") == parse_relation_filter("") == RelationFilter(None, None)
    with pytest.raises(ConfigurationError, match="malformed relation filter"):
        parse_relation_filter("public:users:bad")


def test_is_insert_update_delete_event(transaction: list[Event]) -> None:
    assert is_insert_event("user", transaction)
    assert is_update_event("public:user", transaction)
    assert is_delete_event("todo", transaction)
    assert is_delete_event("todo", transaction[-1])
    assert not is_delete_event("user", transaction)
    assert not is_update_event("todo", transaction)
    assert not is_insert_event("sales:user", transaction)
    assert not is_truncate_event("user", transaction)


def test_filter_subscribed(transaction: list[Event]) -> None:
    assert told(filter_subscribed(transaction, ["todo"])) == ["insert todo", "delete todo"]
    assert filter_subscribed(transaction, ["*"]) == transaction
    assert subscribes(transaction[0], ["user"])
    assert subscribes_to_table(transaction[0], "user", ["*"])
    assert not subscribes_to_table(transaction[0], "user", ["todo"])
    assert not subscribes_to_table(transaction[0], "todo", ["user"])


def test_filter_changes(transaction: list[Event]) -> None:
    assert told(filter_changes(transaction, "todo")) == ["insert todo", "delete todo"]
    assert told(filter_changes(transaction, "todo", "delete")) == ["delete todo"]
    assert filter_changes(transaction, "todo", None, ["user"]) == []
    assert has_table(transaction[1], "todo")
    assert is_type(transaction[1], "insert")


def test_filter_unwatched_fields(transaction: list[Event]) -> None:
    kept = filter_unwatched_fields(transaction, ["updated_at", "todos_count"])

    assert told(kept) == ["insert user", "insert todo", "update user", "delete todo"]
    assert set(kept[2].changes or ()) == {"name"}
    assert has_watched_change(transaction[2], ["updated_at"])
    assert not has_watched_change(transaction[2], ["todos_count"])


def test_filter_unwatched_records(transaction: list[Event]) -> None:
    kept = filter_unwatched_records(transaction, {"event_subscribe": False})

    assert told(kept) == ["insert todo", "delete todo"]
    assert not is_watched_record(transaction[0], {"event_subscribe": False})
    assert contains_unwatched_records(row(transaction[0].new_record), {"id": 1, "event_subscribe": False})
    assert not contains_unwatched_records(row(transaction[0].new_record), {"event_id": None})


def test_map_changes_and_map_columns(transaction: list[Event]) -> None:
    before, after = row(transaction[2].new_record), row(transaction[3].new_record)

    assert map_changes(before, after) == {"name": Change("Chase Pursley", "Chase")}
    assert map_changes(before, after) == transaction[3].changes
    assert map_columns(transaction[1]) == {"id": "integer", "user_id": "integer", "title": "text"}
