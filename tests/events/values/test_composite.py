"""Promise 7: a row is a dict of its fields, or Postgres' own text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.values.printer import DEFINITIONS, Printer, texts
from walex_celery.events.values import TypeDefinition, caster

odd_rows = st.tuples(
    st.integers(-(2**31), 2**31 - 1) | st.none(),
    texts | st.none(),
    st.lists(st.decimals(allow_nan=False, allow_infinity=False, places=2) | st.none(), min_size=1)
    | st.none(),
)


def as_dict(row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(("a", "B c", "d"), row, strict=True))


@settings(max_examples=300)
@given(row=odd_rows)
def test_a_row_comes_back_as_it_went(printer: Printer, row: tuple[Any, ...]) -> None:
    text = printer.text('ROW(%s, %s, %s)::"Odd name"', row)

    assert caster('public."Odd name"', DEFINITIONS)(text) == as_dict(row), text


@settings(max_examples=100)
@given(
    odd=odd_rows,
    odds=st.lists(odd_rows, min_size=1, max_size=3),
    status=st.sampled_from(["new", "NULL", 'on hold, "maybe"', "back\\slash", ""]) | st.none(),
    at=st.datetimes(timezones=st.just(UTC)) | st.none(),
)
def test_rows_within_rows_and_arrays(
    printer: Printer,
    odd: tuple[Any, ...],
    odds: list[tuple[Any, ...]],
    status: str | None,
    at: datetime | None,
) -> None:
    wanted = {"odd": as_dict(odd), "odds": [*map(as_dict, odds)], "status": status, "at": at}

    text = printer.text(
        'ROW(%s::"Odd name", %s::"Odd name"[], %s::sales.order_status, %s::timestamptz)::nested',
        [odd, odds, status, at],
    )
    assert caster("public.nested", DEFINITIONS)(text) == wanted, text

    text = printer.text("ARRAY[NULL, %s::nested]", [text])
    assert caster("public.nested[]", DEFINITIONS)(text) == [None, wanted], text


@pytest.mark.parametrize(
    ("expression", "name", "wanted"),
    [
        ("ROW(NULL)::single", "public.single", {"one": None}),
        ("ROW('')::single", "public.single", {"one": ""}),
        ("ROW()::nothing", "public.nothing", {}),
        ("ARRAY[ROW(NULL)::single, NULL]", "public.single[]", [{"one": None}, None]),
    ],
)
def test_small_rows(printer: Printer, expression: str, name: str, wanted: Any) -> None:
    assert caster(name, DEFINITIONS)(printer.text(expression)) == wanted


@pytest.mark.parametrize("text", ["(1)", "(1,2,3)", "()", "1,2", "(1,2", '(1,"2)', '(1,"2"3)', "(1,(2)", ""])
def test_a_row_of_another_shape_stays_text(text: str) -> None:
    definitions = {"public.two": TypeDefinition("composite", fields=(("a", "integer"), ("b", "text")))}

    assert caster("public.two", definitions)(text) == text


def test_a_field_that_python_cannot_hold_stays_text_alone() -> None:
    definitions = {"public.two": TypeDefinition("composite", fields=(("a", "integer"), ("b", "date")))}

    assert caster("public.two", definitions)("(1,infinity)") == {"a": 1, "b": "infinity"}
