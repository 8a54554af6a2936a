"""Base types of well-known extensions, found by their unqualified name.

An extension may live in any schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from walex_celery.events.values.array import unescape
from walex_celery.events.values.definition import Caster

# hstore_out quotes every key and every value but NULL.
_QUOTED = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_PAIR = re.compile(rf"({_QUOTED})=>(NULL|{_QUOTED})", re.DOTALL)
_HSTORE = re.compile(rf"(?:{_QUOTED}=>(?:NULL|{_QUOTED})(?:, (?!\Z)|\Z))*", re.DOTALL)


def cast_hstore(text: str) -> dict[str, str | None] | str:
    """Cast an hstore."""
    if _HSTORE.fullmatch(text) is None:
        return text
    return {
        unescape(key[1:-1]): None if value == "NULL" else unescape(value[1:-1])
        for key, value in _PAIR.findall(text)
    }


def cast_vector(text: str) -> list[float] | str:
    """Cast a vector or halfvec of pgvector."""
    try:
        return [*map(float, text[1:-1].split(","))] if text[:1] == "[" and text[-1] == "]" else text
    except ValueError:
        return text


EXTENSIONS: Mapping[str, Caster] = {"hstore": cast_hstore, "vector": cast_vector, "halfvec": cast_vector}
