"""Promise 7: ranges and multiranges, over any type."""

from __future__ import annotations

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
