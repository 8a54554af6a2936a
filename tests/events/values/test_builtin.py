"""Promise 7: a value is right, or it is Postgres' own text; for every type that Postgres is born with."""

from __future__ import annotations

import json
from typing import Any

import psycopg2
import pytest

from tests.events.values.printer import Printer
from tests.events.values.samples import SAMPLES, WITHOUT_VALUES
from walex_celery.events.values import TypeDefinition, Wire, caster, wire_form
from walex_celery.events.values.builtin import BUILTINS

CASES = [(name, literal, value) for name, cases in SAMPLES.items() for literal, value in cases]


def same(value: Any, wanted: Any) -> bool:
    """Equal, of the same type, and alike where equality is not enough: NaN, -0.0, 1.10 and 1.1."""
    return type(value) is type(wanted) and repr(value) == repr(wanted)


def type_name(sql_name: str) -> str:
    return sql_name.strip('"')


@pytest.mark.parametrize(("name", "literal", "wanted"), CASES)
def test_a_value_is_right_or_postgres_own_text(
    printer: Printer, name: str, literal: str, wanted: Any
) -> None:
    text = printer.text(f"({literal})::{name}")

    value = caster(type_name(name))(text)

    assert same(value, wanted), (text, value)


@pytest.mark.parametrize("name", SAMPLES)
def test_arrays_of_it_are_lists_with_none_for_null(printer: Printer, name: str) -> None:
    literals, values = zip(*SAMPLES[name], strict=True)
    items = ", ".join(f"({literal})::{name}" for literal in literals)
    text = printer.text(f"ARRAY[{items}, NULL]::{name}[]")

    value = caster(f"{type_name(name)}[]")(text)

    assert same(value, [*values, None]), text
    assert same(caster(f"_{type_name(name)}")(text), value)


@pytest.mark.parametrize("name", SAMPLES)
def test_rows_of_it_are_dicts_with_none_for_null(printer: Printer, name: str) -> None:
    literals, values = zip(*SAMPLES[name], strict=True)
    items = ", ".join(f"({literal})::{name}" for literal in literals)
    text = printer.text(f"ROW({items}, NULL)")
    fields = [f"field {number}" for number in range(len(values) + 1)]
    definition = TypeDefinition("composite", fields=tuple((field, type_name(name)) for field in fields))

    value = caster("public.row", {"public.row": definition})(text)

    assert same(value, dict(zip(fields, [*values, None], strict=True))), text


def test_logical_decoding_sends_the_same_text(printer: Printer) -> None:
    columns = ", ".join(f"c{number} {name}" for number, (name, _, _) in enumerate(CASES))
    values = ", ".join(f"({literal})::{name}" for name, literal, _ in CASES)
    wanted = [printer.text(f"({literal})::{name}") for name, literal, _ in CASES]

    sent = printer.decoded("everything", columns, values)

    assert sent == wanted


def test_no_type_of_the_server_is_forgotten(printer: Printer) -> None:
    names = printer.column(
        """
        SELECT t.typname FROM pg_type t
        WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype NOT IN ('p', 'c')
          AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
        """
    )

    assert len(names) > 70
    assert {type_name(name) for name in SAMPLES} | WITHOUT_VALUES >= set(names)
    assert set(BUILTINS) >= set(names)


@pytest.mark.parametrize("name", sorted(WITHOUT_VALUES))
def test_types_without_samples_have_no_values(printer: Printer, name: str) -> None:
    with pytest.raises(psycopg2.errors.FeatureNotSupported):
        printer.echo(name, "1")


@pytest.mark.parametrize(("alias", "name"), [("smallint", "int2"), ("integer", "int4"), ("bigint", "int8")])
def test_integers_go_by_both_names(alias: str, name: str) -> None:
    assert caster(alias) is caster(name)


@pytest.mark.parametrize(("name", "literal", "wanted"), CASES)
def test_what_goes_raw_into_json_is_json(printer: Printer, name: str, literal: str, wanted: Any) -> None:
    text = printer.text(f"({literal})::{name}")

    match wire_form(type_name(name)):
        case Wire.RAW if isinstance(wanted, int | list | dict):
            assert json.loads(text, parse_float=caster("json")) == wanted
        case Wire.RAW:
            json.loads(text)
        case Wire.BOOL:
            assert text in ("t", "f")
        case Wire.TEXT:
            pass
