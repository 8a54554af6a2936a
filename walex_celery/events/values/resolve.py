"""From the name of a type to its caster."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from walex_celery.events.values.array import array_caster
from walex_celery.events.values.builtin import BUILTINS, BY_NUMBERS
from walex_celery.events.values.composite import composite_caster
from walex_celery.events.values.definition import Caster, Definitions, TypeDefinition
from walex_celery.events.values.extension import EXTENSIONS
from walex_celery.events.values.json import Numbers
from walex_celery.events.values.range import multirange_caster, range_caster
from walex_celery.events.values.text import as_text

_NONE: Definitions = {}


def caster(type_name: str, definitions: Definitions = _NONE, numbers: Numbers = "auto") -> Caster:
    """Return the function that casts the text of a value of this type.

    ``type_name`` is a name of ``pg_catalog`` (integers by their SQL name), or ``schema.typname`` with
    its definition in ``definitions``; an array is its element's name and ``[]``. The caster of an
    unknown type returns the text unchanged. ``numbers``: what those of JSON documents are, in other types too.
    """
    builtin = BY_NUMBERS[numbers].get(type_name)
    if builtin is not None:
        return builtin
    # All but the built-in types have a schema in their name.
    return _resolved(type_name, frozenset(definitions.items()) if "." in type_name else frozenset(), numbers)


@lru_cache(maxsize=1024)
def _resolved(type_name: str, definitions: frozenset[tuple[str, TypeDefinition]], numbers: Numbers) -> Caster:
    return _resolve(type_name, dict(definitions), frozenset(), BY_NUMBERS[numbers])


def _resolve(
    name: str, definitions: Definitions, within: frozenset[str], builtins: Mapping[str, Caster]
) -> Caster:
    if name in builtins:
        return builtins[name]
    element = _element(name)
    if element is not None:
        return array_caster(
            _resolve(element, definitions, within, builtins), _delimiter(element, definitions)
        )
    definition = definitions.get(name)
    if definition is None or definition.kind == "base":
        return EXTENSIONS.get(name.rpartition(".")[2], as_text)
    if name in within:  # Postgres forbids a type within itself; a definition that came by wire might claim it
        return as_text
    within |= {name}
    match definition.kind:
        case "enum":
            return as_text
        case "domain":
            return _resolve(definition.base, definitions, within, builtins)
        case "composite":
            return composite_caster(
                [
                    (field, _resolve(type_name, definitions, within, builtins))
                    for field, type_name in definition.fields
                ]
            )
        case "range":
            return range_caster(_resolve(definition.base, definitions, within, builtins))
        case "multirange":
            return multirange_caster(_resolve(definition.base, definitions, within, builtins))


def _element(name: str) -> str | None:
    """Return the name of an array's element, or None for what is no array."""
    if name.endswith("[]"):
        # integer[][] is the same type as integer[]: the number of dimensions is the value's
        return name.rstrip("[]")
    if name.startswith("_") and name[1:] in BUILTINS:  # pg_type's own name of the array
        return name[1:]
    return None


#: Elements with a delimiter of their own; pg_type.typdelim.
_DELIMITERS: Mapping[str, str] = {"box": ";"}


def _delimiter(element: str, definitions: Definitions) -> str:
    """Return what stands between the elements of an array; that of a domain is its base type's."""
    seen: set[str] = set()
    while element not in seen:
        seen.add(element)
        element = _element(element) or element
        definition = definitions.get(element)
        if definition is None:
            return _DELIMITERS.get(element, ",")
        if definition.kind != "domain" or definition.delimiter != ",":
            return definition.delimiter
        element = definition.base
    return ","
