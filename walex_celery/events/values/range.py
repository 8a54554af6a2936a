"""Ranges and multiranges, as range_out of rangetypes.c prints them."""

from __future__ import annotations

import re
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
