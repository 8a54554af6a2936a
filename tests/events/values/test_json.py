"""Promises 7 and 10: documents to their last digit, and as data whatever their keys."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.events.values.printer import Printer, texts
from walex_celery.events.values import Numbers, TypeDefinition, caster
from walex_celery.events.values.builtin import BUILTINS

numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
documents = st.recursive(
    st.none() | st.booleans() | numbers.map(Decimal) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def exact(value: Any) -> Any:
    """Every number as the Decimal that it prints as."""
    match value:
        case bool() | None | str():
            return value
        case dict():
            return {key: exact(item) for key, item in value.items()}
        case list():
            return [exact(item) for item in value]
        case _:
            return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def dump(value: Any) -> str:
    match value:
        case Decimal():
            return str(value)
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)}: {dump(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(dump, value)) + "]"
        case _:
            return json.dumps(value)


@settings(max_examples=150)
@given(value=documents)
def test_a_document_comes_back_as_it_went(printer: Printer, value: Any) -> None:
    for name in ("json", "jsonb"):
        text = printer.echo(name, dump(value))

        assert exact(caster(name)(text)) == exact(value), text


@settings(max_examples=500)
@given(text=numbers)
@example(text="0.1")
@example(text="9007199254740993.0")
@example(text="1e400")
@example(text="1e-400")
@example(text="-0.0")
@example(text="5e-324")
@example(text="1234567890.12345")
def test_a_number_is_a_float_only_where_that_is_exact(text: str) -> None:
    value = caster("jsonb")(text)

    if any(sign in text for sign in ".eE"):
        assert exact(value) == Decimal(text)
        assert isinstance(value, float) == (Decimal(repr(float(text))) == Decimal(text))
    else:
        assert value == int(text)


@settings(max_examples=500)
@given(text=numbers)
@example(text="0.1")
@example(text="1.10")
@example(text="1e2")
@example(text="1e400")
@example(text="-0.0")
@example(text="-0")
@example(text="18446744073709551616")
def test_with_decimal_a_number_is_of_one_type_always(text: str) -> None:
    for document in (text, f'{{"a": [{text}]}}', f'["\\ud800", {text}]'):  # the last one is not msgspec's
        value = caster("json", numbers="decimal")(document)
        value = value["a"][0] if isinstance(value, dict) else value[1] if isinstance(value, list) else value

        if any(sign in text for sign in ".eE"):
            assert type(value) is Decimal
            assert value.as_tuple() == Decimal(text).as_tuple(), "to the last zero"
        else:
            assert type(value) is int
            assert value == int(text)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("jsonb[]", '{"{\\"a\\": 0.5}",NULL}', [{"a": Decimal("0.5")}, None]),
        ("_json", "{0.5,1}", [Decimal("0.5"), 1]),
        ("public.document", "0.5", Decimal("0.5")),
        ("public.documents", "(0.5,1)", {"first": Decimal("0.5"), "second": 1}),
    ],
)
def test_with_decimal_within_other_types_too(name: str, text: str, wanted: object) -> None:
    definitions = {
        "public.document": TypeDefinition("domain", base="jsonb"),
        "public.documents": TypeDefinition(
            "composite", fields=(("first", "json"), ("second", "public.document"))
        ),
    }
    value = caster(name, definitions, "decimal")(text)

    assert repr(value) == repr(wanted)
    assert repr(caster(name, definitions)(text)) == repr(wanted).replace("Decimal('0.5')", "0.5")


def test_decimal_is_about_documents_only() -> None:
    for name in BUILTINS:
        alike = caster(name, numbers="decimal") is caster(name)
        assert alike == (name not in ("json", "jsonb")), name


@pytest.mark.parametrize("numbers", ["auto", "decimal"])
def test_integers_of_any_length_are_exact(numbers: Numbers) -> None:
    cast = caster("jsonb", numbers=numbers)
    digits = "7" * 4000
    assert cast(digits) == int(digits)

    too_long = "7" * (sys.get_int_max_str_digits() + 1)
    assert str(cast(f"[{too_long}]")[0]) == too_long


def test_objects_with_type_keys_are_data(printer: Printer) -> None:
    text = printer.echo("jsonb", '{"__type__": "datetime", "__value__": "2024-01-01"}')

    assert caster("jsonb")(text) == {"__type__": "datetime", "__value__": "2024-01-01"}


def test_of_duplicate_keys_the_last_wins_as_in_jsonb(printer: Printer) -> None:
    text = printer.echo("json", '{"a": 1, "a": 2}')

    assert caster("json")(text) == caster("jsonb")(printer.echo("jsonb", text)) == {"a": 2}


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\udfff": "\\u0000"}', "  [1,\n\t2 ] "])
def test_what_json_allows_and_jsonb_does_not(printer: Printer, text: str) -> None:
    assert printer.echo("json", text) == text
    assert caster("json")(text) == json.loads(text)


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "1e99999999999999999999", "{", "", "NaN"])
def test_what_python_cannot_hold_stays_text(text: str) -> None:
    assert caster("json")(text) == caster("json", numbers="decimal")(text) == text
