"""The order of a run: each shape's backlog once, then rounds in which every contender drains it in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from benchmarks.backlog import filled, rounded
from benchmarks.contenders import BY_NAME, CONTENDERS, Contender
from benchmarks.latency import RATES, measure_latency
from benchmarks.run import run_drain
from benchmarks.samples import DrainSample, LatencySample, Sample
from benchmarks.servers import Servers
from benchmarks.shapes import GROWTH, HUGE, SHAPES, SINGLE, THOUSAND, Shape


class Plan(msgspec.Struct, frozen=True):
    """What to measure; empty ``shapes`` or ``contenders`` are all.

    After *minutes*, shapes get no further rounds.
    """

    scale: float
    rounds: int
    parts: Sequence[str]
    shapes: Sequence[str] = ()
    contenders: Sequence[str] = ()
    latency_seconds: float = 12.0
    minutes: float = 18.0


#: Prints progress, one line per measurement.
Report = Callable[[str], object]


def run_plan(servers: Servers, plan: Plan, report: Report) -> Iterator[Sample]:
    """Measure all of *plan*, yielding each sample as soon as there is one."""
    clock = _Clock(plan.minutes, report)
    if "growth" in plan.parts:
        yield from _lengths(servers, plan, GROWTH, (0.1, 1.0), plan.rounds, report)
        clock.lap("growth")
    if "huge" in plan.parts:
        # Once: peak memory varies little.
        yield from _lengths(servers, plan, HUGE, (0.01, 1.0), 1, report)
        clock.lap("huge")
    if "latency" in plan.parts:
        for broker in ("valkey", "classic"):
            report(f"latency: {broker}")
            for sample in measure_latency(servers, broker, RATES, plan.latency_seconds, plan.rounds):
                report(_latency_line(sample))
                yield sample
        clock.lap("latency")
    if "drains" in plan.parts:
        # Last, those with targets first: what a slow machine has no time for is rounds of the others.
        for shape in SHAPES:
            if not plan.shapes or shape.name in plan.shapes:
                yield from _drains(servers, plan, shape, clock, report)
                clock.lap(f"drains, {shape.name}")


class _Clock:
    """Reports how long each part took, and knows when the time is up."""

    def __init__(self, minutes: float, report: Report) -> None:
        self._began = self._lap = time.monotonic()
        self._seconds = minutes * 60
        self._report = report

    def lap(self, part: str) -> None:
        """Report how long *part* took."""
        now = time.monotonic()
        self._report(f"{part}: {now - self._lap:.0f} s, {now - self._began:.0f} s in all")
        self._lap = now

    def has(self, seconds: float) -> bool:
        """Whether that much time is left."""
        return time.monotonic() - self._began + seconds <= self._seconds


#: Seconds that one round of the shapes without targets takes, all together: kept back while those with targets run.
_OTHERS_SECONDS = 150.0


def _drains(
    servers: Servers, plan: Plan, shape: Shape, clock: _Clock, report: Report
) -> Iterator[DrainSample]:
    contenders = [
        contender
        for contender in CONTENDERS
        if contender.drains(shape) and (not plan.contenders or contender.name in plan.contenders)
    ]
    if not contenders:
        return
    sizes = {contender.name: contender.size(shape, plan.scale) for contender in contenders}
    report(f"filling: {shape.title}, {max(sizes.values()):,} events")
    with filled(servers.postgres, shape, sizes.values()) as backlog:
        for number in range(1, plan.rounds + 1):
            began = time.monotonic()
            # Rotate the order, so that no contender is always the first.
            for contender in _rotated(contenders, number - 1):
                events = rounded(shape, sizes[contender.name]) + 1
                sample = run_drain(servers, backlog, contender, events, number)
                report(_drain_line(sample))
                yield sample
            took = time.monotonic() - began
            if not clock.has(took + (_OTHERS_SECONDS if shape in (SINGLE, THOUSAND) else took)):
                report(f"{shape.name}: no time for more than {number} rounds")
                break


def _rotated(contenders: list[Contender], by: int) -> list[Contender]:
    by %= len(contenders)
    return contenders[by:] + contenders[:by]


def _lengths(
    servers: Servers, plan: Plan, shape: Shape, shares: Sequence[float], rounds: int, report: Report
) -> Iterator[DrainSample]:
    """Drain a short and a long backlog in turn, one function to Valkey."""
    sizes = [max(50, round(shape.events * plan.scale * share)) for share in shares]
    if shape is HUGE:
        # Each slot sees a transaction of so many rows; the longer one sees the short one after it.
        sizes[-1] += sizes[0]
    report(f"filling: {shape.title}, {max(sizes):,} events")
    with filled(servers.postgres, shape, sizes) as backlog:
        for number in range(1, rounds + 1):
            for size in sizes:
                sample = run_drain(servers, backlog, BY_NAME["valkey"], rounded(shape, size) + 1, number)
                report(_drain_line(sample))
                yield sample


def _drain_line(sample: DrainSample) -> str:
    return (
        f"  round {sample.round}, {sample.shape}, {sample.contender}: {sample.events:,} events in "
        f"{sample.seconds:.2f} s, {sample.rate:,.0f}/s, {sample.peak_bytes >> 20} MiB"
    )


def _latency_line(sample: LatencySample) -> str:
    return (
        f"  {sample.broker}, since {sample.source}, {sample.rate:,.0f}/s: p50 {sample.p50 * 1000:.2f} ms, "
        f"p99 {sample.p99 * 1000:.2f} ms, p99.9 {sample.p999 * 1000:.2f} ms"
    )
