"""Dates and times, as printed with ``DateStyle=ISO`` and ``TimeZone=UTC``.

psycopg2's casters in C are of no use here: they make 9999-12-31 of infinity and 00:00 of 24:00.
The standard library's ISO parsers are as fast, and refuse what they cannot hold: infinity, BC, and
years of five digits or more.
"""

from __future__ import annotations

from datetime import date, datetime, time

from walex_celery.events.values.definition import Caster
from walex_celery.events.values.text import or_text

cast_date: Caster = or_text(date.fromisoformat, ValueError)

#: timestamp (naive) and timestamptz (aware, UTC: Postgres prints ``+00``, which gives ``timezone.utc``).
cast_timestamp: Caster = or_text(datetime.fromisoformat, ValueError)


def cast_time(text: str) -> time | str:
    """Cast a time or timetz; ``24:00:00`` stays text, also where Python would make 00:00 of it."""
    if text[:2] == "24":  # Python 3.14 takes it (gh-102450), and says nothing of the day that went by
        return text
    try:
        return time.fromisoformat(text)
    except ValueError:
        return text
