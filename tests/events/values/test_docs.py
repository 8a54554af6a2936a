"""docs/types.md says what the code does: each line of its table is held against every sample."""

from __future__ import annotations

import doctest
import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest

from tests.events.values.printer import Printer
from tests.events.values.samples import SAMPLES
from walex_celery.events import values as types
from walex_celery.events.values import Numbers, Wire, caster, wire_form
from walex_celery.events.values.builtin import BUILTINS

PAGE = Path(__file__).parents[3] / "docs" / "types.md"
BUILT_IN = PAGE.read_text(encoding="utf-8").partition("## Built-in types")[2].partition("\n## ")[0]
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in BUILT_IN.splitlines() if "|" in line][2:]
FORMS = {"number": Wire.RAW, "value": Wire.RAW, "true, false": Wire.BOOL, "string": Wire.TEXT}
VALUES = {name.strip('"'): [value for _, value in cases] for name, cases in SAMPLES.items()}


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_line_of_the_table_is_true(row: list[str]) -> None:
    names, python, form, exceptions = row

    for name in quoted(names):
        assert wire_form(name) is FORMS[form]
        found = {type(value).__name__ for value in VALUES.get(name, ["" if name == "xml" else None])}
        documented = {kind.partition("[")[0] for kind in quoted(python)}
        if form == "value":
            assert found <= documented
        else:
            assert found - ({"str"} if exceptions else set()) == documented, name


def test_the_table_has_all_types() -> None:
    documented = [name for row in ROWS for name in quoted(row[0])]

    assert len(documented) == len(set(documented))
    assert set(VALUES) <= set(documented) <= set(BUILTINS)


def test_what_it_says_of_types_that_are_text_is_so() -> None:
    for row in ROWS:
        if quoted(row[1]) == ["str"]:
            assert all(caster(name)("any text") == "any text" for name in quoted(row[0]))


def test_its_table_of_kinds_is_true(printer: Printer) -> None:
    part = PAGE.read_text(encoding="utf-8").partition("## Dates and times")[2].partition("\n\nIn arrays")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if "|" in line][2:]
    names = {"date": date, "datetime": datetime, "time": time, "UTC": UTC, "timezone": timezone}
    assert [quoted(row[0]) for row in rows] == [
        ["date"],
        ["timestamp"],
        ["timestamptz"],
        ["time"],
        ["timetz"],
    ]

    for type_cell, text_cell, python, zone in rows:
        (name,), (text,), (wanted,) = map(quoted, (type_cell, text_cell, python))
        assert printer.echo(name, text) == text
        value = caster(name)(text)
        assert repr(value) == repr(eval(wanted, {**names, "timedelta": timedelta}))
        assert caster(f"{name}[]")(f'{{"{text}"}}') == [value]
        assert (getattr(value, "tzinfo", None) is None) == (zone == "" or zone.startswith("naive"))
    assert printer.text("'2024-05-06 07:08:09+05:30'::timestamptz") == "2024-05-06 01:38:09+00"


def test_its_table_of_dates_is_true() -> None:
    part = (
        PAGE.read_text(encoding="utf-8")
        .partition("Dates and times that Python does not have")[2]
        .partition("\n## ")[0]
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if "|" in line][2:]
    names = ("date", "timestamp", "timestamptz", "time", "timetz")
    seen = 0

    for printed, python in rows:
        for text in quoted(printed):
            values = [caster(name)(text) for name in names]
            if python.startswith("`str`"):
                assert values == [text] * len(names)
            else:
                wanted = eval(quoted(python)[0], {"date": date, "datetime": datetime, "UTC": UTC})
                assert any(type(value) is type(wanted) and value == wanted for value in values)
            seen += 1
    assert seen > len(rows)


def test_its_table_of_numbers_in_json_is_true() -> None:
    part = PAGE.read_text(encoding="utf-8").partition("## Numbers in JSON")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if "|" in line][2:]
    assert len(rows) > 5

    for printed, *wanted in rows:
        for text in quoted(printed.partition(" (")[0]):
            for numbers, cell in zip(get_args(Numbers), wanted, strict=True):
                value = caster("json", numbers=numbers)(text)
                if quoted(cell) == ["int"]:
                    assert type(value) is int
                    assert value == int(text)
                else:
                    assert repr(value) == repr(eval(quoted(cell)[0], {"Decimal": Decimal}))


def test_what_jsonb_makes_of_an_exponent(printer: Printer) -> None:
    assert [printer.echo("jsonb", text) for text in ("1e2", "1.50", "-0.0")] == ["100", "1.50", "0.0"]


def test_its_examples_run() -> None:
    results = doctest.testfile(
        str(PAGE), module_relative=False, globs={"Interval": types.Interval, "Range": types.Range}
    )

    assert results.attempted
    assert not results.failed
