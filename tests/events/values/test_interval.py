"""Promise 7: an interval keeps months, days and time apart, as Postgres does."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db.models import DurationField  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from tests.events.values.printer import Printer
from walex_celery.events.values import Interval, caster

# Within these none of Postgres' own sums overflows.
intervals = st.builds(
    Interval,
    st.integers(-(10**8), 10**8),
    st.integers(-(10**8), 10**8),
    st.integers(-(10**16), 10**16) | st.integers(-(10**8), 10**8),
)


@settings(max_examples=500)
@given(interval=intervals)
def test_an_interval_comes_back_as_it_went(printer: Printer, interval: Interval) -> None:
    # As a clock, for Postgres 14 takes no number of microseconds beyond 32 bits.
    sign = "-" if interval.microseconds < 0 else ""
    seconds, microseconds = divmod(abs(interval.microseconds), 1_000_000)
    clock = f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}.{microseconds:06}"
    written = f"{interval.months} months {interval.days} days {clock}"
    text = printer.echo("interval", written)

    assert caster("interval")(text) == interval, text


@settings(max_examples=500)
@given(interval=intervals)
def test_its_str_is_what_postgres_writes_as_iso_8601_and_reads(printer: Printer, interval: Interval) -> None:
    assert printer.text("iso_8601(%s::interval)", [str(interval)]) == str(interval)
    assert caster("interval")(printer.echo("interval", str(interval))) == interval


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(), "PT0S"),
        (Interval(14, -3, 14_706_789_000), "P1Y2M-3DT4H5M6.789S"),
        (Interval(-1, 2, -1_500_000), "P-1M2DT-1.5S"),
        (Interval(microseconds=-3_600_000_001), "PT-1H-0.000001S"),
    ],
)
def test_its_str_is_iso_8601(interval: Interval, text: str) -> None:
    assert str(interval) == text


def test_days_and_time_make_a_timedelta() -> None:
    assert Interval(days=-2, microseconds=1_500_000).as_timedelta() == timedelta(days=-2, seconds=1.5)
    assert Interval(days=-2, microseconds=1_500_000).timedelta() == timedelta(days=-2, seconds=1.5)


def test_months_make_no_timedelta() -> None:
    with pytest.raises(ValueError, match=re.escape("P1M has months, and a month is no fixed number of days")):
        Interval(months=1).as_timedelta()


@pytest.mark.parametrize("text", ["", "infinity", "P1D", "@ 1 mon ago", "1 day ago", "9" * 5000 + " days"])
def test_what_postgres_does_not_print_stays_text(text: str) -> None:
    assert caster("interval")(text) == text


class Job(BaseModel):
    takes: timedelta


class Plan(BaseModel):
    takes: Interval


@settings(max_examples=300)
@given(days=st.integers(-40_000, 40_000), microseconds=st.integers(-(10**15), 10**15))
def test_pydantic_takes_it_for_a_timedelta(days: int, microseconds: int) -> None:
    """To the microsecond."""
    interval = Interval(0, days, microseconds)

    assert Job.model_validate({"takes": interval}).takes == interval.as_timedelta()


def test_pydantic_takes_no_months_for_a_timedelta_and_nothing_that_would_lose_a_digit() -> None:
    for interval in (Interval(months=1), Interval(0, 400_000_000, 1)):
        with pytest.raises(ValidationError, match="takes"):
            Job.model_validate({"takes": interval})


def test_pydantic_has_fields_of_it() -> None:
    plan = Plan.model_validate({"takes": Interval(1, 2, 3)})

    assert plan.takes == Interval(1, 2, 3)
    assert plan.model_dump() == {"takes": Interval(1, 2, 3)}
    assert plan.model_dump_json() == '{"takes":"P1M2DT0.000003S"}'
    with pytest.raises(ValidationError):
        Plan.model_validate({"takes": 5})


def test_djangos_duration_field_takes_its_timedelta() -> None:
    field = DurationField()
    duration = Interval(0, 3, 1_500_000).as_timedelta()

    assert field.to_python(duration) == duration
