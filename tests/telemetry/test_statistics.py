"""What a producer counts."""

from __future__ import annotations

import pytest

from walex_celery.telemetry.statistics import BOUNDS, Durations, EventKey, HandlerTally, Statistics


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0, 0), (0.001, 0), (0.0011, 1), (60, len(BOUNDS) - 1), (61, len(BOUNDS))]
)
def test_a_duration_falls_into_the_first_bucket_that_holds_it(seconds: float, bucket: int) -> None:
    durations = Durations()
    durations.observe(seconds)
    assert [number for number, count in enumerate(durations.buckets) if count] == [bucket]
    assert (durations.count, durations.sum, durations.last) == (1, seconds, seconds)


def test_a_tally_is_the_same_each_time() -> None:
    statistics = Statistics()
    statistics.tally("public", "users", "insert").accepted += 2
    statistics.tally("public", "users", "insert").filtered += 1
    statistics.handler("shop.users_inserted").returned(2, 0.5)
    ((key, tally),) = statistics.tallies()
    assert (key, tally.accepted, tally.filtered) == (EventKey("public", "users", "insert"), 2, 1)
    ((name, handler),) = statistics.handlers()
    assert (name, handler.calls, handler.events, handler.seconds.sum) == ("shop.users_inserted", 1, 2, 0.5)


def test_of_an_error_only_its_type_is_kept() -> None:
    tally = HandlerTally()
    tally.raised(ValueError("ada@example.com"), 0.1)
    assert (tally.calls, tally.errors, tally.last_error) == (0, 1, "ValueError")
    assert tally.last_error_at is not None


def test_dead_letters_are_counted_by_name() -> None:
    statistics = Statistics()
    for name in ("shop.users_inserted", "shop.index", "shop.users_inserted"):
        statistics.dead_lettered(name)
    assert dict(statistics.dead_letters()) == {"shop.users_inserted": 2, "shop.index": 1}
