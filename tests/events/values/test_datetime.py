"""Promise 7: dates and times are right, or Postgres' own text."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.values.printer import Printer
from walex_celery.events.values import caster


@settings(max_examples=300)
@given(value=st.datetimes())
def test_timestamps_come_back_as_they_went(printer: Printer, value: datetime) -> None:
    assert caster("timestamp")(printer.echo("timestamp", str(value))) == value


@settings(max_examples=300)
@given(value=st.datetimes(timezones=st.timezones()).filter(lambda value: 1 < value.year < 9999))
def test_timestamps_with_time_zone_are_the_same_instant_in_utc(printer: Printer, value: datetime) -> None:
    got = caster("timestamptz")(printer.echo("timestamptz", value.astimezone(UTC).isoformat()))

    assert got == value.astimezone(UTC)
    assert got.tzinfo is UTC


@settings(max_examples=200)
@given(day=st.dates(), moment=st.times())
def test_dates_and_times_come_back_as_they_went(printer: Printer, day: date, moment: time) -> None:
    assert caster("date")(printer.echo("date", str(day))) == day
    assert caster("time")(printer.echo("time", str(moment))) == moment


def test_no_year_beyond_python_is_taken_for_another() -> None:
    # fromisoformat also knows dates without dashes and weeks: none of them may look like a far year.
    for year in range(10_000, 294_277):
        for text in (f"{year}-12-31 23:59:59", f"{year}-01-01 00:00:00.5+00"):
            assert caster("timestamp")(text) is text


@pytest.mark.parametrize("year", [1, 44, 1500, 4713])
def test_no_year_before_christ_is_taken_for_another(printer: Printer, year: int) -> None:
    for name in ("date", "timestamp", "timestamptz"):
        text = printer.echo(name, f"{year:04}-12-31 BC")

        assert text.endswith("BC")
        assert caster(name)(text) == text


@pytest.mark.parametrize("text", ["24:00:00", "24:00:00+00", "24:00:00-03:30"])
def test_the_24th_hour_stays_text(text: str) -> None:
    assert caster("time")(text) == text
