"""Promise 7: numbers to their last digit."""

from __future__ import annotations

import decimal
import math
import struct
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.values.printer import Printer
from walex_celery.events.values import caster


@settings(max_examples=300)
@given(number=st.decimals(min_value=-(10**40), max_value=10**40, places=20) | st.decimals(-1, 1, places=500))
def test_numerics_are_exact(printer: Printer, number: Decimal) -> None:
    value = caster("numeric")(printer.text("%s::numeric", [number]))

    assert value == number
    assert value.as_tuple().exponent == number.as_tuple().exponent


@settings(max_examples=300)
@given(number=st.floats())
def test_float8_is_exact(printer: Printer, number: float) -> None:
    value = caster("float8")(printer.text("%s::float8", [number]))

    assert math.isnan(value) if math.isnan(number) else repr(value) == repr(number)


@settings(max_examples=300)
@given(number=st.floats(width=32, allow_nan=False))
def test_float4_is_the_number_postgres_has(printer: Printer, number: float) -> None:
    value = caster("float4")(printer.text("%s::float4", [number]))

    assert struct.pack("f", value) == struct.pack("f", number)


@pytest.mark.parametrize("traps", [[], [decimal.Inexact, decimal.Rounded, decimal.FloatOperation]])
def test_the_decimal_context_of_the_thread_does_not_matter(
    traps: list[type[decimal.DecimalException]],
) -> None:
    digits = "1234567890" * 100 + "." + "1234567890" * 100
    with decimal.localcontext(decimal.Context(prec=3, traps=traps)) as context:
        value = caster("numeric")(digits)
        garbage = caster("numeric")("garbage")
        number = caster("jsonb")("0.12345678901234567890")
        money = caster("money")("$1,234,567.89")

    assert str(value) == digits
    assert garbage == "garbage"
    assert str(number) == "0.12345678901234567890"
    assert str(money) == "1234567.89"
    assert not any(context.flags.values())


@pytest.mark.parametrize("text", ["$1.234,50", "1,234.50 €", "$1.234", "($1.00)", "$12,34.00", "$1,234", ""])
def test_money_of_another_locale_stays_text(text: str) -> None:
    assert caster("money")(text) == text


@pytest.mark.parametrize("name", ["integer", "float8", "numeric", "int2vector", "oid"])
def test_what_is_no_number_stays_text(name: str) -> None:
    assert caster(name)("one") == "one"
