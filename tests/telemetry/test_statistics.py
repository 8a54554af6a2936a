"""What a producer counts."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from walex_celery.telemetry.report import durations as summary
from walex_celery.telemetry.statistics import BOUNDS, Durations, EventKey, HandlerTally, Statistics


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0, 0), (BOUNDS[0], 0), (0.0009, BOUNDS.index(0.001)), (0.001, BOUNDS.index(0.001)),
        (0.0011, BOUNDS.index(0.0025)), (60, len(BOUNDS) - 1), (61, len(BOUNDS)),
    ],
)  # fmt: skip
def test_a_duration_falls_into_the_first_bucket_that_holds_it(seconds: float, bucket: int) -> None:
    durations = Durations()
    durations.observe(seconds)
    assert [number for number, count in enumerate(durations.buckets) if count] == [bucket]
    assert (durations.count, durations.sum, durations.last) == (1, seconds, seconds)


observed = st.lists(st.floats(0, 7200) | st.floats(0, 0.002), min_size=1, max_size=200)


@given(seconds=observed)
@example(seconds=[0.00001] * 1000)
@example(seconds=[0.00001] * 999 + [0.0009])
@example(seconds=[3600.0])
@example(seconds=[3600.0, 60.5])
@example(seconds=[0.011] * 998 + [0.0101, 0.024])
def test_percentiles_do_not_contradict_the_mean(seconds: list[float]) -> None:
    """They are estimated from buckets; but half of the calls can't have taken longer than all calls together."""
    durations = Durations()
    for value in seconds:
        durations.observe(value)
    found = summary(durations)
    ordered, count, total = sorted(seconds), len(seconds), sum(seconds)

    assert found.mean is not None
    assert found.p50 is not None
    assert found.p95 is not None
    assert found.mean == pytest.approx(total / count)
    assert ordered[0] <= found.p50 <= found.p95 <= ordered[-1]
    for part, estimate in ((0.5, found.p50), (0.95, found.p95)):
        rank = ceil(part * count)
        # With all others as short, or as long, as they can be.
        assert (rank - 1) * ordered[0] + (count - rank + 1) * estimate <= total * (1 + 1e-9) + 1e-12
        assert rank * estimate + (count - rank) * ordered[-1] >= total * (1 - 1e-9) - 1e-12
    if ordered[0] == ordered[-1]:
        assert found.p50 == found.p95 == ordered[0]


def test_nothing_observed_has_no_percentiles() -> None:
    found = summary(Durations())
    assert (found.count, found.mean, found.p50, found.p95, found.last) == (0, None, None, None, None)


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
