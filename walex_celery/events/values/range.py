"""Ranges and multiranges, as range_out of rangetypes.c prints them."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec

from walex_celery.events.values.composite import DOUBLED, undouble
from walex_celery.events.values.definition import Caster

_BOUND = rf'(?:{DOUBLED}|[^"\\()\[\],]*)'
_RANGE = re.compile(rf"([\[(])({_BOUND}),({_BOUND})([\])])")
_ANY_RANGE = rf"[\[(]{_BOUND},{_BOUND}[\])]"
_RANGES = re.compile(_ANY_RANGE)
# findall skips over what it does not know, and takes quadratic time to: the whole is looked at first.
_MULTIRANGE = re.compile(rf"\{{(?:{_ANY_RANGE}(?:,(?!\}})|(?=\}})))*\}}")


class Range(msgspec.Struct, frozen=True):
    """A range of any type; a bound that is None is absent (the range goes on forever that way)."""

    lower: Any = None
    upper: Any = None
    #: Whether the ends belong to it: ``[)``, ``[]``, ``(]`` or ``()``.
    bounds: str = "[)"
    empty: bool = False

    def __contains__(self, value: Any) -> bool:
        """Whether *value* is in it, as Postgres' ``@>`` says.

        Raises:
            TypeError: the value is not of the type of the bounds; or both are text, whose order is the collation's.
        """
        if value is None or self.empty:
            return False
        lower = 1 if self.lower is None else _compare(value, self.lower)
        upper = -1 if self.upper is None else _compare(value, self.upper)
        return (lower > 0 or (lower == 0 and self.bounds[0] == "[")) and (
            upper < 0 or (upper == 0 and self.bounds[1] == "]")
        )


def _compare(value: Any, bound: Any) -> int:
    """Below 0 if *value* is before *bound*, 0 if they are equal, above 0 if it is after."""
    if value == bound:
        return 0
    if isinstance(bound, str):
        if isinstance(value, date) and _TIME.fullmatch(bound):
            # What no date of Python's is: BC and -infinity are before all of them, the year 10000 and infinity after.
            return 1 if bound == "-infinity" or bound.endswith(" BC") else -1
        raise TypeError(
            f"whether {value!r} is before {bound!r} depends on the type and its collation: ask Postgres"
        )
    if isinstance(value, str):
        raise TypeError(f"{value!r} is text, and the range is of {type(bound).__name__}")
    if isinstance(bound, Decimal | float) or isinstance(value, Decimal | float):
        # To Postgres NaN is equal to itself, and after all other numbers.
        nans = bool(value != value), bool(bound != bound)
        if any(nans):
            return nans[0] - nans[1]
    return 1 if value > bound else -1


_TIME = re.compile(r"-?infinity|\d{4,}-\d\d-\d\d.*", re.ASCII)
_EMPTY = Range(bounds="()", empty=True)


def range_caster(subtype: Caster) -> Caster:
    """Return the caster of a range over ``subtype``."""

    def cast(text: str) -> Range | str:
        match = _RANGE.fullmatch(text)
        if match is None:
            return _EMPTY if text == "empty" else text
        opening, lower, upper, closing = match.groups()
        return Range(
            subtype(undouble(lower)) if lower else None,
            subtype(undouble(upper)) if upper else None,
            opening + closing,
        )

    return cast


def multirange_caster(range_: Caster) -> Caster:
    """Return the caster of a multirange: a list of its ranges, each cast by ``range_``."""

    def cast(text: str) -> list[Any] | str:
        return [*map(range_, _RANGES.findall(text))] if _MULTIRANGE.fullmatch(text) else text

    return cast
