"""The text that Postgres prints for a value, as a Python value.

Pure functions, used by producer and worker alike. The text is that of a session with
``DateStyle=ISO``, ``IntervalStyle=postgres``, ``TimeZone=UTC``, ``bytea_output=hex``,
``extra_float_digits=3``, ``client_encoding=UTF8`` and ``lc_monetary=C``. A caster never raises, and
what Python cannot hold (the year 10000, BC, an infinite date) stays Postgres' own text, unchanged.
``docs/types.md`` has the whole table.
"""

from __future__ import annotations

from walex_celery.types.definition import Caster, Definitions, TypeDefinition
from walex_celery.types.interval import Interval
from walex_celery.types.range import Range
from walex_celery.types.resolve import caster
from walex_celery.types.wire import Wire, wire_form

__all__ = [
    "Caster",
    "Definitions",
    "Interval",
    "Range",
    "TypeDefinition",
    "Wire",
    "caster",
    "wire_form",
]
