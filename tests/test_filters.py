"""Filters and the functions beside them; WalEx.TransactionFilter's own examples are in tests/walex."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests import messages as m
from tests.pipeline.test_assembler import ORDERS, ORDERS_RELATION, USERS, USERS_RELATION, Listener, on
from walex_celery import Change, ConfigurationError, Event, Filters, filters
from walex_celery.filters import RelationFilter, Table, filters_of, parse_relation_filter, table_of


@pytest.fixture
def events() -> list[Event]:
    """An insert, two updates (without and with the old row) and a delete of users; an insert of orders; a TRUNCATE."""
    listener = Listener(on("on_event"))
    return listener.events(
        USERS_RELATION,
        ORDERS_RELATION,
        m.insert(USERS, b"1", b"a"),
        m.update(USERS, [b"1", b"b"]),
        m.update(USERS, [b"1", b"c"], old=[b"1", b"b"]),
        m.delete(USERS, old=[b"1", b"c"]),
        m.insert(ORDERS, b"7"),
        m.truncate(USERS),
    )


def indexes(found: list[Event]) -> list[int]:
    return [event.index for event in found]


# Tables.


@pytest.mark.parametrize(
    ("named", "table"),
    [
        ("users", Table("public", "users")),
        ("public.users", Table("public", "users")),
        ("sales.orders", Table("sales", "orders")),
        ("sales:orders", Table("sales", "orders")),
        ("my.schema:odd.table", Table("my.schema", "odd.table")),
        ("Größe", Table("public", "Größe")),
        (Table("sales", "orders"), Table("sales", "orders")),
        (SimpleNamespace(_meta=SimpleNamespace(db_table="auth_user")), Table("public", "auth_user")),
        (SimpleNamespace(_meta=SimpleNamespace(db_table='sales"."orders')), Table("sales", "orders")),
        (SimpleNamespace(_meta=SimpleNamespace(db_table='"sales"."orders"')), Table("sales", "orders")),
        (SimpleNamespace(__table__=SimpleNamespace(schema=None, name="users")), Table("public", "users")),
        (SimpleNamespace(__table__=SimpleNamespace(schema="sales", name="a")), Table("sales", "a")),
    ],
)
def test_a_table_by_any_of_its_names(named: object, table: Table) -> None:
    assert table_of(named) == table


@pytest.mark.parametrize("named", ["", ".", "sales.", ".orders", ":", 42, None, object(), ["users"]])
def test_what_names_no_table_is_an_error(named: object) -> None:
    with pytest.raises(ConfigurationError, match="names no table"):
        table_of(named)


def test_a_table_is_told_with_its_schema_unless_that_is_public() -> None:
    assert f"{Table('public', 'users')} {Table('sales', 'orders')}" == "users sales.orders"


# Filters.


def test_filters_may_be_a_mapping_as_in_walex() -> None:
    as_mapping = filters_of({"unwatched_records": {"a": 1}, "unwatched_fields": ["b"]})

    assert as_mapping == Filters(unwatched_records={"a": 1}, unwatched_fields=("b",))
    assert filters_of(None) == Filters()
    assert filters_of(as_mapping) is as_mapping


@pytest.mark.parametrize("fields", [["a", "b"], ("a", "b"), dict.fromkeys("ab"), iter(["a", "b"])])
def test_unwatched_fields_are_any_iterable_of_names(fields: Any) -> None:
    assert Filters(unwatched_fields=fields).unwatched_fields == ("a", "b")


@pytest.mark.parametrize(
    "wrong",
    [
        42,
        ["updated_at"],
        {"unwatched_field": []},
        {3: 4, "x": 5},
        {"unwatched_fields": "updated_at"},
        {"unwatched_fields": None},
        {"unwatched_fields": [1]},
        {"unwatched_records": None},
        {"unwatched_records": ["a"]},
        {"unwatched_records": {1: 2}},
    ],
)
def test_filters_that_can_not_be_are_an_error(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        filters_of(wrong)


def test_a_filter_is_not_changed_by_what_it_was_made_of() -> None:
    records = {"a": 1}
    made = Filters(unwatched_records=records)
    records["b"] = 2

    assert made.unwatched_records == {"a": 1}


@pytest.mark.parametrize(
    ("made", "accepted"),
    [
        (Filters(), [0, 1, 2, 3, 4, 5]),
        (Filters(unwatched_records={"name": "a"}), [1, 2, 3, 4, 5]),
        (Filters(unwatched_records={"name": "c"}), [0, 1, 4, 5]),  # the new row of 2, the old one of 3
        (Filters(unwatched_records={"name": "c", "id": 2}), [0, 1, 2, 3, 4, 5]),  # all must be so
        (Filters(unwatched_records={"name": "c", "id": 1}), [0, 1, 4, 5]),
        (Filters(unwatched_records={"no_such_column": None}), [0, 1, 2, 3, 4, 5]),
        (Filters(unwatched_fields=("name",)), [0, 1, 3, 4, 5]),  # the old row of 1 is not known
        (Filters(unwatched_fields=("id",)), [0, 1, 2, 3, 4, 5]),
        (Filters(unwatched_records={"id": 7}, unwatched_fields=("name",)), [0, 1, 3, 5]),
    ],
)
def test_what_a_filter_accepts(made: Filters, accepted: list[int], events: list[Event]) -> None:
    assert indexes([event for event in events if made.accepts(event)]) == accepted


# The functions.


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("*", RelationFilter(None, None)),
        ("", RelationFilter(None, None)),
        ("public", RelationFilter("public", None)),
        ("public:users", RelationFilter("public", "users")),
    ],
)
def test_a_relation_filter(text: str, parsed: RelationFilter) -> None:
    assert parse_relation_filter(text) == parsed


def test_a_malformed_relation_filter_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="malformed relation filter 'a:b:c'"):
        parse_relation_filter("a:b:c")


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ({"event": "*", "relation": "*"}, True),
        ({"event": "INSERT", "relation": "*"}, True),
        ({"event": "insert", "relation": "sales"}, True),
        ({"event": "UPDATE", "relation": "sales"}, False),
        ({"event": "UPDATE", "relation": "public:users"}, True),
        ({"event": "TRUNCATE", "relation": "public:users"}, True),
        ({"event": "*", "relation": "public:orders"}, False),
        ({"event": "*", "relation": "other"}, False),
        ({"event": "*", "relation": "a:b:c"}, False),
        ({"event": "*"}, False),
        ({"event": 1, "relation": 2}, False),
    ],
)
def test_matches(pattern: Any, matched: bool, events: list[Event]) -> None:
    assert filters.matches(pattern, events) is matched


def test_nothing_matches_no_events() -> None:
    assert not filters.matches({"event": "*", "relation": "*"}, [])


def test_the_type_of_one_event_or_of_any(events: list[Event]) -> None:
    assert filters.is_insert_event("users", events)
    assert filters.is_insert_event("sales:orders", events[4])
    assert not filters.is_insert_event("orders", events), "orders is not in public"
    assert filters.is_update_event("public:users", events[1])
    assert filters.is_delete_event("users", events[3])
    assert not filters.is_delete_event("users", events[:3])
    assert filters.is_truncate_event("users", events[5])
    assert filters.is_type(events[0], "insert")


def test_subscriptions(events: list[Event]) -> None:
    assert indexes(filters.filter_subscribed(events, ["sales.orders"])) == [4]
    assert indexes(filters.filter_subscribed(events, ["*"])) == [0, 1, 2, 3, 4, 5]
    assert filters.filter_subscribed(events, []) == []
    assert filters.subscribes_to_table(events[4], "sales:orders", ["sales.orders"])
    assert not filters.subscribes_to_table(events[4], "users", ["*"])


def test_changes_of_a_table_and_type(events: list[Event]) -> None:
    assert indexes(filters.filter_changes(events, "users")) == [0, 1, 2, 3, 5]
    assert indexes(filters.filter_changes(events, "users", "update")) == [1, 2]
    assert filters.filter_changes(events, "users", "update", ["sales.orders"]) == []


def test_unwatched(events: list[Event]) -> None:
    assert indexes(filters.filter_unwatched_fields(events, ["name"])) == [0, 1, 3, 4, 5]
    assert indexes(filters.filter_unwatched_records(events, {"id": 1})) == [4, 5]
    assert not filters.contains_unwatched_records({}, {"a": None}), "an absent column is not NULL"


def test_map_changes() -> None:
    old, new = {"id": 1, "name": "a", "gone": 1, "null": None}, {"id": 1, "name": "b", "null": None}

    assert filters.map_changes(old, new) == {"name": Change(new_value="b", old_value="a")}


def test_map_columns(events: list[Event]) -> None:
    assert filters.map_columns(events[0]) == {"id": "integer", "name": "text"}


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ('"odd*"', Table("public", "odd*")),
        ('sales."odd*"', Table("sales", "odd*")),
        ('sales:"*"', Table("sales", "*")),
        ('"s*"."a.*"', Table("s*", "a.*")),
    ],
)
def test_a_table_with_a_star_in_its_name_is_quoted(name: str, table: Table) -> None:
    assert table_of(name) == table
