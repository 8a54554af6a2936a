"""Promises 7 and 10: no text makes a caster raise, hang, or give anything but a value or the text."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walex_celery.events.values import Caster, TypeDefinition, caster
from walex_celery.events.values.builtin import BUILTINS

DEFINITIONS = {
    "public.row": TypeDefinition("composite", fields=(("a", "integer"), ("b", "text[]"), ("c", "jsonb"))),
    "public.rows": TypeDefinition("range", base="public.row"),
    "public.many": TypeDefinition("multirange", base="public.rows"),
}
NAMES = [*BUILTINS, *DEFINITIONS, "public.hstore", "public.vector"]
CASTERS: Mapping[str, Caster] = {
    name: caster(name, DEFINITIONS) for plain in NAMES for name in (plain, f"{plain}[]")
}

SEEDS = [
    *(
        "42",
        "t",
        "-1.5e-7",
        "Infinity",
        "$1,234.50",
        "\\x00ff",
        "2024-02-29 12:30:01.5+00",
        "24:00:00",
        "1 2 3",
    ),
    *(
        "-1 mons +2 days -00:00:01.5",
        '{"a": [1.5, null], "b": "\\u0000"}',
        "10.0.0.0/8",
        "::1/128",
        "[1,2.5]",
    ),
    *('{a,"b \\"c",NULL,{1,2}}', "[0:1]={1,2}", '(1,"{a,""b c""}",)', '["(1,,)",)', "{[1,3),[5,)}", "empty"),
    *('"a"=>"1", "b"=>NULL', "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "{}", "()", ""),
]
any_character = st.characters(exclude_categories=())  # lone surrogates too: bytes of an SQL_ASCII database
any_text = st.text(st.sampled_from('"\\{}()[],;=>:+-. 0123456789eN\x00\udc80') | any_character)


@st.composite
def nearly_right(draw: st.DrawFn) -> str:
    """A text that some type prints, with a piece of it replaced."""
    seed = draw(st.sampled_from(SEEDS))
    start = draw(st.integers(0, len(seed)))
    return seed[:start] + draw(any_text) + seed[start + draw(st.integers(0, 3)) :]


@settings(max_examples=300)
@given(text=any_text | nearly_right())
def test_no_text_makes_a_caster_raise(text: str) -> None:
    for name, cast in CASTERS.items():
        value = cast(text)

        assert not isinstance(value, str) or text == value or "json" in name, name


LONG = 200_000


@pytest.mark.parametrize(
    "piece", ['"', '\\"', '"a"', '""', "{", "}", "(", ")", ",", "a", '"\\', "1", "[", '"a"x', '{"']
)
@pytest.mark.parametrize("start", ["", "{", "(", "[", '("', '{"', '["', '{["', "{[", '"'])
def test_long_garbage_takes_linear_time(start: str, piece: str) -> None:
    text = start + piece * (LONG // len(piece))

    for name in (
        "text[]",
        "public.row",
        "public.row[]",
        "public.rows",
        "public.many",
        "public.hstore",
        "json",
    ):
        began = time.process_time()
        CASTERS[name](text)
        # It takes up to 0.1 s; quadratic time would be minutes.
        assert time.process_time() - began < 2, name


@pytest.mark.parametrize("text", ["\udc80", "a\udcffb"])
def test_bytes_that_are_no_utf8_stay_what_they_are(text: str) -> None:
    assert caster("text")(text) == text
    assert caster("text[]")(f'{{{text},"{text} "}}') == [text, f"{text} "]
    assert caster("public.row", DEFINITIONS)(f"(,{{{text}}},)")["b"] == [text]
    assert caster("jsonb")(f'{{"a": "{text}"}}') == {"a": text}


@pytest.mark.parametrize("text", ["true", "x", ""])
def test_a_bool_is_t_or_f(text: str) -> None:
    assert caster("bool")(text) == text


@pytest.mark.parametrize("text", ["\\000abc", "\\xzz", "\\x0"])
def test_a_bytea_not_printed_as_hex_stays_text(text: str) -> None:
    assert caster("bytea")(text) == text
