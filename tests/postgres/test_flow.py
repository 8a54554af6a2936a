"""Messages are let gather while they come one right after the other, and never while it is quiet."""

from __future__ import annotations

from walex_celery.postgres.flow import (
    GATHER_SECONDS,
    SMALL_SLICE,
    STEADY_RATE,
    STEADY_SECONDS,
    STEADY_SLICES,
    Flow,
)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def flowing(
    *, seconds: float = 0.0001, slices: int = STEADY_SLICES + 1, count: int = 30
) -> tuple[Flow, Clock]:
    """A flow of which so many slices of *count* messages were read, *seconds* apart."""
    clock = Clock()
    flow = Flow(clock)
    for _ in range(slices):
        clock.now += seconds
        flow.note(count)
    return flow, clock


def test_small_slices_one_after_the_other_are_a_steady_flow() -> None:
    flow, _ = flowing()

    assert flow.is_steady


def test_a_few_are_not_yet() -> None:
    flow, _ = flowing(slices=STEADY_SLICES - 1)

    assert not flow.is_steady


def test_a_hundred_transactions_a_second_are_read_at_once() -> None:
    flow, _ = flowing(seconds=0.01, slices=1000, count=3)

    assert not flow.is_steady


def test_five_thousand_transactions_a_second_are_read_at_once() -> None:
    flow, _ = flowing(seconds=1 / 5000, slices=1000, count=3)

    assert not flow.is_steady


def test_what_comes_by_the_large_slice_has_gathered_by_itself() -> None:
    flow, _ = flowing(count=SMALL_SLICE)

    assert not flow.is_steady


def test_it_ends_with_an_empty_slice() -> None:
    flow, _ = flowing()

    flow.note(0)

    assert not flow.is_steady


def test_it_ends_with_a_pause() -> None:
    flow, clock = flowing()

    clock.now += STEADY_SECONDS * 2

    assert not flow.is_steady


def test_it_goes_on_while_they_are_let_gather() -> None:
    flow, _ = flowing(seconds=GATHER_SECONDS * 1.5, slices=100, count=int(2 * STEADY_RATE * GATHER_SECONDS))

    assert flow.is_steady


def test_it_ends_when_fewer_come() -> None:
    flow, clock = flowing(slices=100)

    for _ in range(2 * STEADY_SLICES):
        clock.now += GATHER_SECONDS
        flow.note(int(STEADY_RATE * GATHER_SECONDS / 2))

    assert not flow.is_steady
