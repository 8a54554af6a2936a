"""Which handlers an event reaches, and filters compiled for the cells of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walex_celery import Event, Filters
from walex_celery.events.cells import UNCHANGED, Cell
from walex_celery.events.event import Source
from walex_celery.events.row_event import RowSource, new_context, new_row_event
from walex_celery.events.shape import Shape
from walex_celery.filters import Table
from walex_celery.handlers.registry import Handler, Registry
from walex_celery.handlers.routes import Route, Subscriber, compile_filters, message_route, route_of

USERS = Table("public", "users")
SHAPE = Shape({"id": "integer", "name": "text", "active": "bool", "data": "jsonb"}, {})


def handle(events: list[Event]) -> None:
    """A batch handler."""


def add(decorator: str, target: Any, **filters: Any) -> Handler:
    return Registry().add(decorator, target, filters, (), handle, __name__)


def test_a_route_is_in_the_order_registered_and_parted_by_filters() -> None:
    first = add("on_event", "all", unwatched_records={"id": 1})
    second = add("on_insert", "users")
    third = add("on_insert", "users", unwatched_records={"id": 2})
    whole = route_of([first, second, third, add("on_delete", "users")], USERS, "insert", SHAPE)

    def wanting(id: bytes) -> tuple[Handler, ...]:
        part = whole.of([id, None, None, None], None)
        assert part is not None
        return part.handlers

    assert wanting(b"1") == (second, third)
    assert wanting(b"2") == (first, second)
    assert wanting(b"3") == (first, second, third) == whole.handlers


def test_a_row_that_all_filters_drop_has_no_route() -> None:
    whole = Route([Subscriber(add("on_event", "all"), lambda new, old: False)])

    assert whole
    assert whole.of([], None) is None
    assert not Route([])


def test_messages_reach_handlers_of_their_prefix_and_of_all() -> None:
    mine, every, rows = add("on_message", "audit"), add("on_message", "*"), add("on_event", "all")

    assert message_route([mine, every, rows], "audit").handlers == (mine, every)
    assert message_route([mine, every, rows], "other").handlers == (every,)


# Compiled filters do what Filters does.

TEXTS = {
    "id": st.integers(-2, 2).map(lambda number: b"%d" % number),
    "name": st.sampled_from([b"", b"a", "é".encode(), b"\xff", b"null", b"t"]),
    "active": st.sampled_from([b"t", b"f"]),
    "data": st.sampled_from([b"null", b"{}", b'{"a": 1}', b'{"a": 1.0}', b'{"a":1}', b"1", b"true"]),
}
ROWS = st.tuples(*[st.none() | text for text in TEXTS.values()])
NEW_ROWS = st.tuples(*[st.none() | st.just(UNCHANGED) | text for text in TEXTS.values()])
VALUES = st.sampled_from([None, True, False, 0, 1, -1, "", "a", "é", "\udcff", "null", {}, {"a": 1}, 1.0])
NAMES = st.sampled_from([*TEXTS, "no such column"])


@given(
    type=st.sampled_from(["insert", "update", "delete"]),
    new=NEW_ROWS,
    old=ROWS,
    old_is_known=st.booleans(),
    records=st.dictionaries(NAMES, VALUES, max_size=3),
    fields=st.lists(NAMES, max_size=4),
)
def test_a_compiled_filter_accepts_what_the_filter_accepts(
    type: Any,
    new: Sequence[Cell],
    old: Sequence[Cell],
    old_is_known: bool,
    records: dict[str, Any],
    fields: list[str],
) -> None:
    filters = Filters(unwatched_records=records, unwatched_fields=tuple(fields))
    row_source = RowSource(Source("WalEx", "1", "shop", "public", "users", SHAPE.columns, ("id",)), SHAPE)
    if type == "update" and old_is_known:
        new = [before if after is UNCHANGED else after for before, after in zip(old, new, strict=True)]
    event = new_row_event(
        row_source,
        type,
        new_context(),
        0,
        None if type == "delete" else new,
        new if type == "delete" else old if type == "update" and old_is_known else None,
        old_is_known,
    )
    accepts = compile_filters(filters, type, SHAPE)

    known_old = old if old_is_known and type == "update" else None
    for _ in range(2):  # the second time from what was remembered
        assert (accepts is None or accepts(new, known_old)) is filters.accepts(event)


@pytest.mark.parametrize("type", ["update", "delete"])
def test_a_value_that_is_not_known_is_not_the_unwatched_one(type: Any) -> None:
    """A TOASTed value that Postgres did not send, or a column that is not in the key: the event is not dropped."""
    accepts = compile_filters(Filters(unwatched_records={"name": "a"}), type, SHAPE)
    assert accepts is not None

    def wanted(name: Cell) -> bool:
        row = [b"1", name, b"t", None]
        return accepts(None, row) if type == "delete" else accepts(row, None)

    assert (wanted(b"a"), wanted(b"b"), wanted(None), wanted(UNCHANGED)) == (False, True, True, True)


@pytest.mark.parametrize(
    ("new", "wanted"),
    [
        ([b"2", b"a", b"f", None], True),
        ([b"1", b"b", b"f", None], False),
        ([b"2", b"a", b"t", None], False),
        ([b"1", b"b", b"t", None], False),
    ],
    ids=["watched", "unwatched field", "unwatched record", "both"],
)
def test_a_row_must_pass_both_filters(new: list[Cell], wanted: bool) -> None:
    filters = Filters(unwatched_records={"active": True}, unwatched_fields=("name", "active"))
    accepts = compile_filters(filters, "update", SHAPE)
    assert accepts is not None
    assert accepts(new, [b"1", b"a", b"f", None]) is wanted
