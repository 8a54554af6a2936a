"""Numbers: integers, floats, numeric, money, and the two vectors of numbers in system tables."""

from __future__ import annotations

import re
from decimal import Context, Decimal, InvalidOperation

from walex_celery.events.values.definition import Caster
from walex_celery.events.values.text import or_text

#: smallint, integer, bigint, oid, and the transaction counters.
cast_int: Caster = or_text(int, ValueError)

#: float4 and float8, with NaN and the infinities. A float4 is the double nearest to its shortest text.
cast_float: Caster = or_text(float, ValueError)

# Decimal(str) is exact whatever the context's precision; but in a thread whose context does not trap
# InvalidOperation it makes a NaN of what it cannot hold. So we say the context.
_STRICT = Context(traps=[InvalidOperation])


def exact(text: str) -> Decimal:
    """Return the number to its last digit; raises decimal.InvalidOperation, an ArithmeticError."""
    return Decimal(text, _STRICT)


#: numeric, with NaN and the infinities.
cast_numeric: Caster = or_text(exact, ArithmeticError)

# cash_out with lc_monetary=C. Another locale's text may mean anything ("$1.234" in Chile): it stays text.
_MONEY = re.compile(r"(-?)\$([0-9]{1,3}(?:,[0-9]{3})*\.[0-9]{2})", re.ASCII)


def cast_money(text: str) -> Decimal | str:
    """Cast a money printed with ``lc_monetary=C``."""
    match = _MONEY.fullmatch(text)
    return exact(match[1] + match[2].replace(",", "")) if match else text


def cast_int_vector(text: str) -> list[int] | str:
    """Cast an int2vector or oidvector: numbers with spaces between."""
    try:
        return [*map(int, text.split())]
    except ValueError:
        return text
