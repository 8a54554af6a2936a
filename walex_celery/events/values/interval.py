"""Intervals: months, days and microseconds, which Postgres keeps apart.

None of them is a fixed number of another.
"""

from __future__ import annotations

import re
from datetime import timedelta as _timedelta
from typing import Any

import msgspec

_MICROSECONDS = 1_000_000

# EncodeInterval() of interval.c with IntervalStyle=postgres: each part has its own sign.
_INTERVAL = re.compile(
    r"(?:([+-]?\d{1,10}) years? ?)?(?:([+-]?\d{1,10}) mons? ?)?(?:([+-]?\d{1,10}) days? ?)?"
    r"(?:([+-]?)(\d{2,10}):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?",
    re.ASCII,
)


class Interval(msgspec.Struct, frozen=True, order=False):
    """An interval as Postgres stores it; ``str()`` gives ISO 8601, which Postgres reads back."""

    months: int = 0
    days: int = 0
    microseconds: int = 0

    def as_timedelta(self) -> _timedelta:
        """Return days and time as a timedelta, a day as 24 hours; Django's ``DurationField`` takes it.

        Raises:
            ValueError: there are months, whose length is unknown without a date.
            OverflowError: beyond 999,999,999 days.
        """
        if self.months:
            raise ValueError(
                f"{self} has months, and a month is no fixed number of days: "
                "add it to a date in SQL, or use .months, .days and .microseconds"
            )
        return _timedelta(days=self.days, microseconds=self.microseconds)

    #: The older name.
    timedelta = as_timedelta

    def __float__(self) -> float:
        """In seconds, as :meth:`as_timedelta`. So pydantic takes an interval for a ``timedelta``.

        Raises:
            ValueError: there are months.
            OverflowError: a float would not be exact to the microsecond.
        """
        duration = self.as_timedelta()
        seconds = duration.total_seconds()
        if _timedelta(seconds=seconds) != duration:
            raise OverflowError(f"{self} is too long for a float of its microseconds: use .as_timedelta()")
        return seconds

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        """Let a pydantic model have a field of this type, which is an ISO 8601 string in JSON."""
        from pydantic_core import core_schema  # only models need it

        return core_schema.is_instance_schema(
            cls, serialization=core_schema.to_string_ser_schema(when_used="json")
        )

    def __str__(self) -> str:
        years, months = _split(self.months, 12)
        seconds, fraction = _split(self.microseconds, _MICROSECONDS)
        minutes, seconds = _split(seconds, 60)
        hours, minutes = _split(minutes, 60)
        sign = "-" if self.microseconds < 0 else ""
        date_parts = "".join(f"{n}{unit}" for n, unit in ((years, "Y"), (months, "M"), (self.days, "D")) if n)
        time_parts = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M")) if n)
        if fraction:
            time_parts += f"{sign}{abs(seconds)}.{abs(fraction):06d}".rstrip("0") + "S"
        elif seconds:
            time_parts += f"{seconds}S"
        if not (date_parts or time_parts):
            return "PT0S"
        return "P" + date_parts + ("T" + time_parts if time_parts else "")


def cast_interval(text: str) -> Interval | str:
    """Cast an interval printed with ``IntervalStyle=postgres``; infinity (Postgres 17) stays text."""
    match = _INTERVAL.fullmatch(text)
    if match is None or not text:
        return text
    years, months, days, sign, hours, minutes, seconds, fraction = match.groups()
    microseconds = 0
    if hours is not None:
        microseconds = ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * _MICROSECONDS
        if fraction:
            microseconds += int(fraction.ljust(6, "0"))
        if sign == "-":
            microseconds = -microseconds
    return Interval(int(years or 0) * 12 + int(months or 0), int(days or 0), microseconds)


def _split(value: int, by: int) -> tuple[int, int]:
    """Divide towards zero, so that both parts have the sign of the whole, as C does."""
    quotient, remainder = divmod(abs(value), by)
    return (-quotient, -remainder) if value < 0 else (quotient, remainder)
