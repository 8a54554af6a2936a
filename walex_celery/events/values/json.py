"""json and jsonb, parsed without losing a digit."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal

import msgspec

from walex_celery.events.values.definition import Caster
from walex_celery.events.values.numeric import exact

#: What a number of a document is that is written with a fraction or an exponent: a float where that is exact and
#: a Decimal elsewhere, or always a Decimal.
Numbers = Literal["auto", "decimal"]

# A double carries every decimal number of 15 significant digits (DBL_DIG); no exponent, no overflow.
_SURELY_EXACT_LENGTH = 15


def _number(text: str) -> float | Decimal:
    """Return a float when it prints as the same number, a Decimal otherwise."""
    if len(text) <= _SURELY_EXACT_LENGTH and "e" not in text and "E" not in text:
        return float(text)
    number, decimal = float(text), exact(text)
    return number if Decimal(repr(number)) == decimal else decimal


def _integer(text: str) -> int | Decimal:
    """Return an int, or a Decimal past the 4,300 digits that Python converts and prints."""
    try:
        return int(text)
    except ValueError:
        return exact(text)


def _constant(text: str) -> None:
    """Refuse NaN and Infinity, which the standard library takes for JSON and Postgres does not."""
    raise ValueError(text)


# msgspec's own errors are ValueErrors only since 0.21.
_REFUSALS = (ValueError, msgspec.MsgspecError, ArithmeticError, RecursionError)


def _json_caster(number: Callable[[str], float | Decimal]) -> Caster:
    """Return the caster of documents whose numbers *number* makes, but for integers."""
    # msgspec takes 0.8 µs where the standard library takes 2.7 (50 characters, two floats), and refuses what a json
    # column may hold: lone surrogates (escaped, or of an SQL_ASCII database), integers of more than 4,300 digits.
    decode = msgspec.json.Decoder(float_hook=number).decode
    decode_anything = json.JSONDecoder(
        parse_float=number, parse_int=_integer, parse_constant=_constant
    ).decode

    def cast(text: str) -> Any:
        try:
            return decode(text)
        except _REFUSALS:
            pass
        try:
            return decode_anything(text)
        except _REFUSALS:
            return text

    return cast


#: json and jsonb; of duplicate keys the last wins, as in jsonb. What is nested too deeply for Python, or has an
#: exponent of 19 digits, stays text.
cast_json: Caster = _json_caster(_number)

#: The same with ``numbers="decimal"``.
cast_json_decimal: Caster = _json_caster(exact)
