"""Promise 7: ranges and multiranges, over any type."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.events.values.printer import DEFINITIONS, Printer, texts
from walex_celery.events.values import Range, caster

bounds = st.sampled_from(["[)", "[]", "(]", "()"])


@settings(max_examples=300)
@given(lower=texts | st.none(), upper=texts | st.none(), ends=bounds)
def test_a_range_comes_back_as_it_went(
    printer: Printer, lower: str | None, upper: str | None, ends: str
) -> None:
    if lower is not None and upper is not None:
        lower, upper = sorted((lower, upper))
    wanted = Range(lower, upper, ("(" if lower is None else ends[0]) + (")" if upper is None else ends[1]))
    if lower is not None and lower == upper and ends != "[]":
        wanted = Range(bounds="()", empty=True)

    text = printer.text("textrange(%s, %s, %s)", [lower, upper, ends])

    assert caster("public.textrange", DEFINITIONS)(text) == wanted, text
    array = printer.text("ARRAY[textrange(%s, %s, %s), NULL]", [lower, upper, ends])
    assert caster("public.textrange[]", DEFINITIONS)(array) == [wanted, None], array


@settings(max_examples=200)
@given(points=st.lists(texts, max_size=6, unique=True), data=st.data())
def test_a_multirange_comes_back_as_it_went(printer: Printer, points: list[str], data: st.DataObject) -> None:
    assume(len(points) % 2 == 0)
    points.sort()
    wanted = [
        Range(low, high, data.draw(bounds)) for low, high in zip(points[::2], points[1::2], strict=True)
    ]
    parts = ", ".join("textrange(%s, %s, %s)" for _ in wanted)

    text = printer.text(
        f"textmultirange({parts})", [item for r in wanted for item in (r.lower, r.upper, r.bounds)]
    )

    assert caster("public.textmultirange", DEFINITIONS)(text) == wanted, text


def test_a_range_of_rows(printer: Printer) -> None:
    text = printer.text("""oddrange(ROW(1, 'a "b', '{1}')::"Odd name", ROW(2, '', NULL)::"Odd name")""")

    assert caster("public.oddrange", DEFINITIONS)(text) == Range(
        {"a": 1, "B c": 'a "b', "d": [1]}, {"a": 2, "B c": "", "d": None}
    )


@pytest.mark.parametrize("text", ["[1,2", "[1)", "1,2", "[1,2,3)", "", "EMPTY", "[1,2) ", '["1,2)'])
def test_what_is_no_range_stays_text(text: str) -> None:
    assert caster("int4range")(text) == text


@pytest.mark.parametrize("text", ["", "{", "{[1,2)", "{[1,2),}", "{,}", "[1,2)", "{[1,2)[3,4)}", "{[1,2)},"])
def test_what_is_no_multirange_stays_text(text: str) -> None:
    assert caster("int4multirange")(text) == text


def test_a_range_is_data_that_does_not_change() -> None:
    assert hash(Range(1, 2)) == hash(Range(1, 2))
    with pytest.raises(AttributeError, match="immutable"):
        Range(1, 2).lower = 3  # type: ignore[misc]


days = st.dates(date(2020, 1, 1), date(2020, 1, 9))
moments = st.datetimes(datetime(2020, 1, 1), datetime(2020, 1, 3), timezones=st.just(UTC))
numbers = st.decimals(-3, 3, places=1) | st.just(Decimal("NaN"))
#: The name of the range, that of its element, bounds, and values that may be in it.
RANGES: list[tuple[str, str, Any, Any]] = [
    ("int4range", "int4", st.integers(-5, 5), st.integers(-7, 7)),
    ("numrange", "numeric", numbers | st.sampled_from(["Infinity", "-Infinity"]), numbers),
    (
        "daterange",
        "date",
        days | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "10000-01-01"]),
        days,
    ),
    (
        "tstzrange",
        "timestamptz",
        moments | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC"]),
        moments,
    ),
]


@settings(max_examples=400)
@given(kind=st.sampled_from(RANGES), data=st.data())
def test_what_is_in_it_is_what_postgres_says(
    printer: Printer, kind: tuple[str, str, Any, Any], data: st.DataObject
) -> None:
    name, element, bound, member = kind
    lower, upper = (data.draw(st.none() | bound) for _ in "lu")
    ends, value = data.draw(bounds), data.draw(member)
    expression = f"{name}(%s::text::{element}, %s::text::{element}, %s)"
    given_bounds = [*(None if end is None else str(end) for end in (lower, upper)), ends]
    in_order = f"coalesce(%s::text::{element} <= %s::text::{element}, true)"
    assume(printer.text(in_order, given_bounds[:2]) == "t")

    made = caster(name)(printer.text(expression, given_bounds))
    contains = printer.text(f"{expression} @> %s::text::{element}", [*given_bounds, str(value)])

    assert (value in made) is (contains == "t"), made
    assert None not in made


def test_text_is_not_compared() -> None:
    """Its order is a collation's, which Python does not have."""
    assert "b" in Range("b", None)
    assert "b" not in Range("b", None, "()")
    with pytest.raises(TypeError, match="collation"):
        _ = "B" in Range("a", "c")
    with pytest.raises(TypeError, match="is text, and the range is of int"):
        _ = "5" in Range(1, 10)
