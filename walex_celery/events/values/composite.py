"""Rows, as record_out of rowtypes.c prints them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from walex_celery.events.values.definition import Caster

# A field is empty (NULL), quoted with " and \ doubled, or plain; then comes the next or the end.
DOUBLED = r'"[^"\\]*(?:(?:""|\\\\)[^"\\]*)*"'
_FIELD = rf'(?:{DOUBLED}|[^"\\(),]*)'
_FIELDS = re.compile(rf"({_FIELD})[,)]")
# findall skips over what it does not know, and takes quadratic time to: the whole is looked at first.
_ROW = re.compile(rf"\((?:{_FIELD},)*{_FIELD}\)")


def composite_caster(fields: Sequence[tuple[str, Caster]]) -> Caster:
    """Return the caster of a composite type: a dict of its fields in order, with None for NULL.

    A row of another number of fields, printed before the type was altered, stays text.
    """
    names = [name for name, _ in fields]
    casters = [cast for _, cast in fields]

    def cast(text: str) -> Any:
        if '"' not in text and text.rfind("(") == 0 and text.find(")") == len(text) - 1:
            values = text[1:-1].split(",")  # a third less time where nothing is quoted
        elif _ROW.fullmatch(text):
            values = _FIELDS.findall(text, 1)
        else:
            return text
        if len(values) != len(names):
            return text if names or text != "()" else {}
        return {
            name: (field(undouble(value)) if value else None)
            for name, field, value in zip(names, casters, values, strict=True)
        }

    return cast


def undouble(value: str) -> str:
    r"""Take off the quotes of a field or bound, and the doubling of ``"`` and ``\\`` within."""
    return value[1:-1].replace('""', '"').replace("\\\\", "\\") if value[0] == '"' else value
