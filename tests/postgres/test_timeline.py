"""Which timeline a position belongs to."""

from __future__ import annotations

import pytest

from walex_celery import Lsn
from walex_celery.postgres.timeline import Switch, Timelines, parse_history

# As Postgres writes it: of a cluster that was failed over twice.
HISTORY = """
1\t0/3000158\tno recovery target specified

# a comment
2\t1/A0\tbefore 2000-01-01 00:00:00+00
"""
TIMELINES = Timelines(3, (Switch(1, Lsn(0x3000158)), Switch(2, Lsn(0x1_000000A0))))


def test_a_history_is_read() -> None:
    assert parse_history(3, HISTORY) == TIMELINES


@pytest.mark.parametrize(
    ("lsn", "timeline"),
    [(0, 1), (0x3000157, 1), (0x3000158, 2), (0x1_0000009F, 2), (0x1_000000A0, 3), (1 << 60, 3)],
)
def test_a_record_is_of_the_timeline_that_it_begins_in(lsn: int, timeline: int) -> None:
    assert TIMELINES.of(lsn) == timeline


def test_the_current_one_begins_at_the_last_switch() -> None:
    assert TIMELINES.since == Lsn(0x1_000000A0)
    assert Timelines().since == Lsn(0)


def test_what_was_read_before_a_switch_knows_nothing_of_it() -> None:
    """Of what an old primary wrote past the switch, no server has it any more."""
    assert TIMELINES.as_of(2) == Timelines(2, TIMELINES.switches[:1])
    assert TIMELINES.as_of(2).of(0x1_000000A0) == 2
    assert TIMELINES.as_of(1) == Timelines()
    assert TIMELINES.as_of(3) == TIMELINES
