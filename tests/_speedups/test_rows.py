"""The compiled part writes each event as Python does, to the byte (promises 7 and 10)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests._speedups.support import Both, needs_compiled, row_source
from walex_celery.events.cells import MAX_NESTING, UNCHANGED, Cell
from walex_celery.events.row_event import PlainContext, new_context
from walex_celery.events.values import Numbers
from walex_celery.events.wire import WireEvent
from walex_celery.postgres.pgoutput import EARLIEST, LATEST, POSTGRES_EPOCH

pytestmark = needs_compiled

TEXTS = [
    *(b"a%cb" % byte for byte in range(256)),
    *("é", "żółw", "😀", "\u2028", "\x7f"),
    b"",
    b"x" * 39,
    b"x" * 40,
    b"x" * 41,
    b"\xc0\x80",  # overlong
    b"\xed\xa0\x80",  # a surrogate
    b"\xf4\x90\x80\x80",  # beyond Unicode
    b"eight ch\x00",
    b'12345678"1234567\\',
]
DOCUMENTS = [
    b"{}", b'{"a": [1, 2]}', b"null", b" 1", b"1 ", b"", b'"\xff"', "\"é\"".encode(), b"\n[]", b"[\n]",
    b"[" * MAX_NESTING + b"]" * MAX_NESTING, b"[" * (MAX_NESTING + 1) + b"]" * (MAX_NESTING + 1),
]  # fmt: skip
BOOLS = [b"t", b"f", b"", b"x", b"true"]
NUMBERS = [b"1", b"-9223372036854775808", b"", b"\xff", b"1e5"]


def cells(of: list[Any]) -> st.SearchStrategy[Cell]:
    encoded = [text.encode() if isinstance(text, str) else text for text in of]
    return st.one_of(st.none(), st.just(UNCHANGED), st.sampled_from(encoded))


ANY_TEXT = (
    cells(TEXTS)
    | st.binary(max_size=60)
    | st.text(max_size=30).map(lambda text: text.encode("utf-8", "replace"))
)
ROWS = st.tuples(cells(NUMBERS), ANY_TEXT, cells(BOOLS), cells(DOCUMENTS), cells(DOCUMENTS), ANY_TEXT)


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_each_text(text: Any) -> None:
    cell = text.encode() if isinstance(text, str) else text
    both = Both("insert", [b"1", cell, b"t", b"{}", b"[]", b"1.0"], None)

    both.same(lambda event: event.to_json())
    both.same(lambda event: event.for_task())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: repr(document[:20]))
def test_each_document(document: bytes) -> None:
    Both("insert", [b"1", b"a", b"t", document, b"1", b"1.0"], None).same(lambda event: event.for_task())
    Both("delete", None, [b"1", b"a", b"t", b"1", document, b"1.0"]).same(lambda event: event.for_task())


@given(new=ROWS, old=ROWS, whole=st.booleans(), kind=st.sampled_from(["insert", "update", "delete"]))
def test_any_row(new: tuple[Cell, ...], old: tuple[Cell, ...], whole: bool, kind: str) -> None:
    both = Both(
        kind,
        None if kind == "delete" else new,
        None if kind == "insert" or (kind == "update" and not whole) else old,
        old_is_whole=whole,
    )

    both.same(lambda event: event.for_task())
    both.same(lambda event: event.to_json())
    both.same(repr)


@given(row=ROWS, changed=st.lists(st.integers(0, 5), max_size=3), other=ROWS)
def test_an_update_of_some_columns(
    row: tuple[Cell, ...], changed: list[int], other: tuple[Cell, ...]
) -> None:
    new = [other[number] if number in changed else cell for number, cell in enumerate(row)]

    Both("update", new, row).same(lambda event: event.for_task())


@given(
    microseconds=st.integers(EARLIEST - 10**12, LATEST + 10**12) | st.integers(EARLIEST, LATEST),
    xid=st.none() | st.integers(0, 2**32 - 1),
    lsn=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**32 - 1),
    last=st.booleans(),
)
def test_any_transaction(microseconds: int, xid: int | None, lsn: int, index: int, last: bool) -> None:
    both = Both(
        "insert", [b"1"], None, source=row_source({"id": "bigint"}),
        microseconds=microseconds, xid=xid, lsn=lsn, index=index, last=last,
    )  # fmt: skip

    both.same(lambda event: event.for_task())
    both.same(repr)
    both.same(lambda event: event.transaction)


@pytest.mark.parametrize("year", [1, 4, 100, 400, 1600, 1899, 1900, 1999, 2000, 2001, 2004, 2100, 2400, 9999])
def test_each_day_of_a_year(year: int) -> None:
    for day in range(365):
        moment = datetime(year, 1, 1, 23, 59, 59, 999999, UTC) + timedelta(days=day)
        microseconds = (moment - POSTGRES_EPOCH) // timedelta(microseconds=1)
        made = [context(microseconds).tail for context in (_compiled_context, _plain_context)]
        assert made[0] == made[1]


def _compiled_context(microseconds: int) -> Any:
    context = new_context()
    context.complete(1, microseconds, 7)
    context.render()
    return context


def _plain_context(microseconds: int) -> Any:
    context = PlainContext()
    context.complete(1, microseconds, 7)
    context.render()
    return context


@pytest.mark.parametrize("key", [(), ("id",), ("name",), ("id", "name", 'a"b\\'), ("tür",)])
@pytest.mark.parametrize(
    "value", [b"1", None, UNCHANGED, b"x" * 40, b"x" * 41, "é".encode(), b"a\nb", b"\xff"]
)
def test_what_flower_shows(key: tuple[str, ...], value: Cell) -> None:
    columns = {"id": "bigint", "name": "text", 'a"b\\': "text", "tür": "text"}
    both = Both("insert", [value] * 4, None, source=row_source(columns, key))

    assert "lsn=0/16B3748" in both.same(repr)
    both.same(lambda event: event.for_task())


@pytest.mark.parametrize("numbers", ["auto", "decimal"])
def test_the_numbers_of_documents(numbers: Numbers) -> None:
    new = [b"1", b"a", b"t", b'{"a": [0.1, 1.50, 7]}', b"1e2", b"0.5"]
    old = [b"1", b"a", b"t", b"0.10", b"1e2", b"0.5"]
    both = Both("update", new, old, source=row_source(numbers=numbers))

    wire = both.same(lambda event: event.to_json())
    rows = both.same(lambda event: repr((event.new_record, event.changes)))

    received = WireEvent(wire)
    assert repr((received.new_record, received.changes)) == rows
    assert ("Decimal('1.50')" in rows) == (numbers == "decimal")


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1600])
def test_a_table_of_so_many_columns(count: int) -> None:
    """1,600 is what Postgres allows; 256 what is done in C."""
    columns = {f"c{number}": "text" for number in range(count)}
    both = Both("insert", [b"x"] * count, None, source=row_source(columns, ("c0",)))

    both.same(lambda event: event.for_task())


def test_rows_that_do_not_fit_their_table() -> None:
    """The stream's are refused before; nothing is read beyond the end of one all the same."""
    for count in (0, 1, 5, 7, 5000):
        answered = Both("insert", [b"1"] * count, None)
        for event in answered.events:
            try:
                event.for_task()
            except (IndexError, ValueError, TypeError):
                continue


def test_an_event_that_is_not_complete_says_so() -> None:
    for context in (new_context(), PlainContext()):
        with pytest.raises(AttributeError, match="not complete"):
            _ = context.info
