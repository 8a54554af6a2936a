"""How a value stands in the JSON of an event: the producer moves text, and the worker pays for typing."""

from __future__ import annotations

from enum import Enum

from walex_celery.events.values.definition import Definitions


class Wire(Enum):
    """How Postgres' text of a value becomes JSON."""

    RAW = "raw"  #: the text is itself a JSON value that JSON holds exactly
    BOOL = "bool"  #: ``t`` is true and ``f`` is false
    TEXT = "text"  #: a JSON string of the text


_FORMS = {
    **dict.fromkeys(
        ("smallint", "integer", "bigint", "int2", "int4", "int8", "oid", "json", "jsonb"), Wire.RAW
    ),
    "bool": Wire.BOOL,
}

_NONE: Definitions = {}


def wire_form(type_name: str, definitions: Definitions = _NONE) -> Wire:
    """Return how a value of this type stands in the JSON of an event; a domain's is its base type's."""
    seen: set[str] = set()
    while type_name in definitions and definitions[type_name].kind == "domain" and type_name not in seen:
        seen.add(type_name)
        type_name = definitions[type_name].base
    return _FORMS.get(type_name, Wire.TEXT)
