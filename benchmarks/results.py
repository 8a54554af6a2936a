"""Samples to numbers: medians, and ratios of pairs that were measured in the same round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median

from benchmarks.contenders import BASELINE
from benchmarks.latency import BARE, COMMIT
from benchmarks.samples import DrainSample, LatencySample, Machine, Sample


class Results:
    """The samples of one run; a number is ``None`` where it was not measured."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.machine: Machine | None = None
        self.latencies: list[LatencySample] = []
        self._drains: dict[tuple[str, str], list[DrainSample]] = {}
        for sample in samples:
            if isinstance(sample, Machine):
                self.machine = sample
            elif isinstance(sample, LatencySample):
                self.latencies.append(sample)
            else:
                self._drains.setdefault((sample.shape, sample.contender), []).append(sample)

    def drains(self, shape: str, contender: str) -> list[DrainSample]:
        """The drains of *shape* by *contender*."""
        return self._drains.get((shape, contender), [])

    def rate(self, shape: str, contender: str) -> float | None:
        """Events a second."""
        return _median(sample.rate for sample in self.drains(shape, contender))

    def cpu_per_million(self, shape: str, contender: str) -> float | None:
        """CPU seconds per million events."""
        return _median(s.cpu_seconds / s.events * 1e6 for s in self.drains(shape, contender))

    def server_cpu_per_million(self, shape: str, contender: str) -> float | None:
        """CPU seconds of Postgres and the broker per million events."""
        return _median(
            s.server_cpu_seconds / s.events * 1e6
            for s in self.drains(shape, contender)
            if s.server_cpu_seconds is not None
        )

    def peak_bytes(self, shape: str, contender: str) -> int | None:
        """The most memory that any of the processes held."""
        return max((sample.peak_bytes for sample in self.drains(shape, contender)), default=None)

    def ways(self, shape: str, contender: str) -> tuple[str, ...]:
        """How tasks were published."""
        return tuple(sorted({way for sample in self.drains(shape, contender) for way in sample.ways}))

    def ratio(self, shape: str, contender: str, to: str = BASELINE) -> float | None:
        """The rate over that of *to*: the median of the rounds' pairs."""
        others = {sample.round: sample.rate for sample in self.drains(shape, to)}
        pairs = [s.rate / others[s.round] for s in self.drains(shape, contender) if s.round in others]
        return _median(pairs)

    def cpu_ratio(self, shape: str, contender: str, to: str = BASELINE) -> float | None:
        """The CPU seconds that *to* takes for an event, over the contender's: more is better, as in :meth:`ratio`."""
        mine, others = self.cpu_per_million(shape, contender), self.cpu_per_million(shape, to)
        return others / mine if mine and others else None

    def growth(self, shape: str, contender: str) -> float | None:
        """Time of the longest drain over that of the shortest, as a share of what their lengths say: 1 is linear."""
        return self._longest_to_shortest(shape, contender, lambda sample: sample.seconds / sample.events)

    def cpu_growth(self, shape: str, contender: str) -> float | None:
        """The same of CPU time."""
        return self._longest_to_shortest(shape, contender, lambda sample: sample.cpu_seconds / sample.events)

    def growth_events(self, shape: str, contender: str) -> tuple[int, int] | None:
        """The shortest and the longest drain's number of events."""
        sizes = [sample.events for sample in self.drains(shape, contender)]
        return (min(sizes), max(sizes)) if sizes else None

    def _longest_to_shortest(
        self, shape: str, contender: str, value: Callable[[DrainSample], float]
    ) -> float | None:
        sizes = self.growth_events(shape, contender)
        if sizes is None or sizes[0] == sizes[1]:
            return None
        short, long = (self._of_size(shape, contender, size, value) for size in sizes)
        return long / short if short else None

    def _of_size(self, shape: str, contender: str, size: int, value: Callable[[DrainSample], float]) -> float:
        return median(value(sample) for sample in self.drains(shape, contender) if sample.events == size)

    def more_memory(self, shape: str, contender: str) -> float | None:
        """Bytes by which the longest drain's peak exceeds the shortest's."""
        sizes = self.growth_events(shape, contender)
        if sizes is None or sizes[0] == sizes[1]:
            return None
        short, long = (self._of_size(shape, contender, size, lambda s: s.peak_bytes) for size in sizes)
        return long - short

    def latency(self, broker: str, source: str, rate: int) -> LatencySample | None:
        """The latencies of one load."""
        for sample in self.latencies:
            if (sample.broker, sample.source, sample.asked_rate) == (broker, source, rate):
                return sample
        return None

    def above_delay(self, broker: str, rate: int, quantile: str) -> float | None:
        """Seconds by which a quantile (``"p50"``) since COMMIT exceeds that of a bare ``delay()``."""
        bare = next((s for s in self.latencies if (s.broker, s.source) == (broker, BARE)), None)
        commit = self.latency(broker, COMMIT, rate)
        if bare is None or commit is None:
            return None
        return float(getattr(commit, quantile) - getattr(bare, quantile))


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None
