"""The results of a run: one record per measurement, stored as JSON lines."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True, tag="machine", tag_field="record"):
    """Where and how it was measured."""

    date: str
    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    versions: dict[str, str]
    scale: float
    rounds: int
    valkey_persistence: str


class DrainSample(msgspec.Struct, frozen=True, tag="drain", tag_field="record"):
    """One drain of a backlog by one contender.

    ``cpu_seconds`` and ``peak_bytes`` are of its process, ``server_cpu_seconds`` of Postgres and the broker together.
    """

    shape: str
    contender: str
    round: int
    events: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    ways: tuple[str, ...] = ()
    server_cpu_seconds: float | None = None

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


class LatencySample(msgspec.Struct, frozen=True, tag="latency", tag_field="record"):
    """Seconds until a task's first line: since COMMIT, or since the call of ``delay()``.

    ``asked_rate`` is in transactions (calls) a second, ``rate`` what was reached; ``count`` tasks were timed.
    """

    broker: str
    source: str
    asked_rate: int
    rate: float
    count: int
    p50: float
    p99: float
    p999: float


Sample = Machine | DrainSample | LatencySample

_decoder = msgspec.json.Decoder(Sample)


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Append *samples* to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for sample in samples:
            file.write(msgspec.json.encode(sample) + b"\n")


def read_samples(path: Path) -> list[Sample]:
    """Read a file of JSON lines."""
    return [_decoder.decode(line) for line in path.read_bytes().splitlines()]


def this_machine(*, scale: float, rounds: int, valkey_persistence: str, servers: dict[str, str]) -> Machine:
    """Describe the machine; *servers* holds their versions by name."""
    packages = {name: version(name) for name in ("celery", "kombu", "psycopg2-binary", "redis", "msgspec")}
    return Machine(
        date=datetime.now(UTC).date().isoformat(),
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={**servers, **packages},
        scale=scale,
        rounds=rounds,
        valkey_persistence=valkey_persistence,
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
