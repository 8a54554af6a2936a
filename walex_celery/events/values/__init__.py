"""The text that Postgres prints for a value, as a Python value.

Pure functions, used by producer and worker alike. The text is that of a session with
``DateStyle=ISO``, ``IntervalStyle=postgres``, ``TimeZone=UTC``, ``bytea_output=hex``,
``extra_float_digits=3``, ``client_encoding=UTF8`` and ``lc_monetary=C``. A caster never raises, and
what Python cannot hold (the year 10000, BC, an infinite date) stays Postgres' own text, unchanged.
``docs/types.md`` has the whole table.
"""

from __future__ import annotations

from walex_celery.events.values.definition import Caster, Definitions, TypeDefinition
from walex_celery.events.values.interval import Interval
from walex_celery.events.values.json import Numbers
from walex_celery.events.values.range import Range
from walex_celery.events.values.resolve import caster
from walex_celery.events.values.wire_form import Wire, wire_form

__all__ = [
    "Caster",
    "Definitions",
    "Interval",
    "Numbers",
    "Range",
    "TypeDefinition",
    "Wire",
    "caster",
    "wire_form",
]
