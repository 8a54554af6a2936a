"""Promise 7: nested lists of what Postgres has in an array, or its own text."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.values.printer import DEFINITIONS, Printer, texts
from walex_celery.events.values import caster


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Lists of 1 to 3 dimensions, each of one size, of texts and None."""
    items: Any = texts | st.none()
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.integers(1, 3))
        items = st.lists(items, min_size=size, max_size=size)
    return draw(items)


@settings(max_examples=300)
@given(value=arrays())
def test_a_list_comes_back_as_it_went(printer: Printer, value: Any) -> None:
    text = printer.text("%s::text[]", [value])

    assert caster("text[]")(text) == value, text


CASES = [
    ("'{}'::int[]", "integer[]", []),
    ("'{{1,NULL},{3,4}}'::int[]", "integer[]", [[1, None], [3, 4]]),
    ("ARRAY[]::box[]", "box[]", []),
    ("ARRAY[NULL, '(1,2),(3,4)', '(5,6),(7,8)']::box[]", "box[]", [None, "(3,4),(1,2)", "(7,8),(5,6)"]),
    ("'{{t,f},{f,NULL}}'::bool[]", "bool[]", [[True, False], [False, None]]),
    ("ARRAY['{1,2}', NULL]::grid[]", "public.grid[]", [[1, 2], None]),
    ("'{{1},{2}}'::grid", "public.grid", [[1], [2]]),
    ("ARRAY[ARRAY['(1,2),(3,4)']::boxes]", "public.boxes[]", [["(3,4),(1,2)"]]),
    ("ARRAY['(1,2),(3,4)', '(5,6),(7,8)']::corner[]", "public.corner[]", ["(3,4),(1,2)", "(7,8),(5,6)"]),
    ("""ARRAY['{"a": [1.5]}', 'null', NULL]::jsonb[]""", "jsonb[]", [{"a": [1.5]}, None, None]),
    ("ARRAY['infinity', '2024-01-01']::date[]", "date[]", ["infinity", caster("date")("2024-01-01")]),
    (
        "ARRAY['on hold, \"maybe\"', 'NULL', '', 'back\\slash', NULL]::sales.order_status[]",
        "sales.order_status[]",
        ['on hold, "maybe"', "NULL", "", "back\\slash", None],
    ),
]


@pytest.mark.parametrize(("expression", "name", "wanted"), CASES)
def test_arrays_of_other_types(printer: Printer, expression: str, name: str, wanted: Any) -> None:
    text = printer.text(expression)

    assert caster(name, DEFINITIONS)(text) == wanted, text


@pytest.mark.parametrize("text", ["[0:1]={7,8}", "[-1:0][2:3]={{1,2},{3,4}}", '[5:5]={"a b"}'])
def test_lower_bounds_that_a_list_would_lose_make_it_text(printer: Printer, text: str) -> None:
    assert printer.echo("text[]", text) == text
    assert caster("text[]")(text) == text


def test_lower_bounds_of_one_are_not_printed(printer: Printer) -> None:
    assert caster("integer[]")(printer.echo("integer[]", "[1:2]={7,8}")) == [7, 8]


@pytest.mark.parametrize(
    "text", ["", "{", "}", "{{1}", "{1}}", '{"a}', "{1}{2}", "{}{}", '{"a"\\}', "1", '"1"', "{\\}"]
)
def test_what_is_no_array_stays_text(text: str) -> None:
    assert caster("integer[]")(text) == text


@settings(max_examples=200)
@given(value=arrays(), data=st.data())
def test_an_array_of_other_bounds_is_text_with_elements(
    printer: Printer, value: Any, data: st.DataObject
) -> None:
    """Whoever goes through it gets the elements, never characters."""
    sizes, inner = [], value
    while isinstance(inner, list):
        sizes.append(len(inner))
        inner = inner[0]
    lows = [data.draw(st.integers(-3, 9)) for _ in sizes]
    prefix = "".join(f"[{low}:{low + size - 1}]" for low, size in zip(lows, sizes, strict=True))
    text = printer.echo("text[]", f"{prefix}={printer.text('%s::text[]', [value])}")

    got = caster("text[]")(text)

    assert list(got) == value
    assert all(item in got for item in value)
    if set(lows) != {1}:
        assert got == text
        assert (got.elements, got.lower_bounds) == (value, tuple(lows))
        assert json.loads(json.dumps(got)) == text
        for copied in (pickle.loads(pickle.dumps(got)), copy.deepcopy(got)):
            assert (copied, list(copied), copied.lower_bounds) == (text, value, tuple(lows))


@pytest.mark.parametrize(
    "text", ["[2:4]={1,2", "[2:4]", "[2:4]=", "[a:b]={1}", "[2]={1}", "[2:3]=1,2", "[2:4]={1}x"]
)
def test_what_only_begins_with_bounds_stays_text(text: str) -> None:
    assert type(caster("integer[]")(text)) is str
