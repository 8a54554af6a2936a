"""What must be known of a type that is not built into Postgres."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec


class TypeDefinition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A type outside ``pg_catalog``, as read from the catalog; goes with an event as JSON."""

    kind: Literal["enum", "domain", "composite", "range", "multirange", "base"]
    #: A domain's base type, a range's subtype, or a multirange's range, by name.
    base: str = ""
    #: A composite's attributes, as (name, type name), in order, without the dropped ones.
    fields: tuple[tuple[str, str], ...] = ()
    #: What stands between the elements of an array of this type (``pg_type.typdelim``).
    delimiter: str = ","


#: Type name (``schema.typname``, each part quoted only where SQL needs it) to what it is.
Definitions = Mapping[str, TypeDefinition]

#: From the text of a value, never NULL, to the Python value. Never raises.
Caster = Callable[[str], Any]
