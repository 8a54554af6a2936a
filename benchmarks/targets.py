"""What the producer must reach, as ratios within one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from benchmarks.results import Results

MIB = 1 << 20


class Target(msgspec.Struct, frozen=True):
    """One line of the table: *least* (or *most*) is the bound.

    ``by_cpu`` is the same by CPU seconds instead of seconds, where that says something; nothing is asked of it.
    """

    work: str
    bound: float
    kind: Literal["least", "most"]
    value: Callable[[Results], float | None]
    unit: str = ""
    by_cpu: Callable[[Results], float | None] = lambda _: None

    def reached(self, value: float) -> bool:
        """Whether *value* is good enough."""
        return value >= self.bound if self.kind == "least" else value <= self.bound


class Verdict(msgspec.Struct, frozen=True):
    """A target and what was measured; ``None`` where it was not."""

    target: Target
    value: float | None

    @property
    def text(self) -> str:
        """What to print: yes, no or not measured."""
        if self.value is None:
            return "not measured"
        return "yes" if self.target.reached(self.value) else "**no**"


_SINGLE, _THOUSAND = ("single", "single rows"), ("thousand", "1,000-row transactions")


def _ratios() -> Iterator[Target]:
    for (shape, label), contender, work, bound in (
        (_SINGLE, "unsubscribed", "nothing subscribed", 0.85),
        (_THOUSAND, "unsubscribed", "nothing subscribed", 0.85),
        (_SINGLE, "filtered", "all filtered by `unwatched_records`", 0.6),
        (_THOUSAND, "filtered", "all filtered by `unwatched_records`", 0.6),
        (_SINGLE, "one-column", "batch handler, one column", 0.45),
        (_THOUSAND, "one-column", "batch handler, one column", 0.45),
        (_SINGLE, "valkey", "one function, Valkey", 0.40),
        (_THOUSAND, "valkey", "one function, Valkey", 0.33),
    ):
        yield _ratio(f"{work}, {label}: of `pg_recvlogical`", shape, contender, "pg_recvlogical", bound)
    for (shape, label), contender, work, other, against, bound in (
        (_SINGLE, "valkey", "one function, Valkey", "valkey-delay", "times `delay()`", 25),
        (_SINGLE, "valkey", "one function, Valkey", "valkey-plain", "times that in Python alone", 1.5),
        (_THOUSAND, "valkey", "one function, Valkey", "valkey-plain", "times that in Python alone", 1.5),
        (_SINGLE, "valkey-signal", "with a signal receiver, Valkey", "valkey-delay", "times `delay()`", 8),
        (
            _SINGLE,
            "classic",
            "one function, RabbitMQ classic",
            "classic-delay",
            "times confirmed `delay()`",
            12,
        ),
        (_SINGLE, "quorum", "one function, RabbitMQ quorum", "quorum-delay", "times confirmed `delay()`", 12),
        (
            _SINGLE,
            "classic",
            "one function, RabbitMQ classic",
            "classic-ready",
            "of ready-made messages",
            0.8,
        ),
        (_SINGLE, "quorum", "one function, RabbitMQ quorum", "quorum-ready", "of ready-made messages", 0.8),
    ):
        yield _ratio(f"{work}, {label}: {against}", shape, contender, other, bound)


def _ratio(work: str, shape: str, contender: str, to: str, bound: float) -> Target:
    return Target(
        work,
        bound,
        "least",
        lambda results: results.ratio(shape, contender, to),
        by_cpu=lambda results: results.cpu_ratio(shape, contender, to),
    )


def _latencies() -> Iterator[Target]:
    for broker, label in (("valkey", "Valkey"), ("classic", "RabbitMQ")):
        for quantile, bound in (("p50", 3.0), ("p99", 15.0)):
            yield _latency(broker, label, quantile, bound)


def _latency(broker: str, label: str, quantile: str, bound: float) -> Target:
    def value(results: Results) -> float | None:
        seconds = results.above_delay(broker, 100, quantile)
        return None if seconds is None else seconds * 1000

    return Target(f"commit to task, 100/s, {label}: {quantile} above `delay()`", bound, "most", value, "ms")


def _more_memory(results: Results) -> float | None:
    more = results.more_memory("huge", "valkey")
    return None if more is None else more / MIB


def _above_linear(results: Results) -> float | None:
    growth = results.growth("growth", "valkey")
    return None if growth is None else (growth - 1) * 100


def _above_linear_by_cpu(results: Results) -> float | None:
    growth = results.cpu_growth("growth", "valkey")
    return None if growth is None else (growth - 1) * 100


TARGETS = (
    *_ratios(),
    *_latencies(),
    Target("one huge transaction: peak memory above a hundredth of it", 64, "most", _more_memory, "MiB"),
    Target(
        "drain time of a backlog ten times as long: above ten times",
        5,
        "most",
        _above_linear,
        "%",
        _above_linear_by_cpu,
    ),
)


def verdicts(results: Results) -> list[Verdict]:
    """Each target with what was measured."""
    return [Verdict(target, target.value(results)) for target in TARGETS]
