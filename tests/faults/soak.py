"""A soak: load, faults, recovery, and the verdict."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.faults import evidence
from tests.faults.aof import never_noted, pushed
from tests.faults.evidence import Call
from tests.faults.faults import FAULTS, possible
from tests.faults.load import TABLES
from tests.faults.schedule import Strike, bursts
from tests.faults.world import Variant, World, running
from tests.support import Database, wait_until
from walex_celery.testing.servers import Valkey

#: Seconds that everything may take to recover from a burst, on a machine that has other things to do.
RECOVERY_SECONDS: Final = 180
#: Seconds without a single task at the end, after which what is missing is lost.
DRAIN_SECONDS: Final = 90
#: What a producer may have: Python with Celery takes 90 MiB, a full batch on its way is 8 MiB.
MOST_RSS_MIB: Final = 256
MOST_OPEN_FILES: Final = 64


@dataclass(frozen=True)
class Summary:
    """What a soak came to; times are in seconds."""

    variant: str
    seed: int
    seconds: float
    faults: dict[str, int]
    recoveries: dict[str, list[float]]
    transactions: int
    events: int
    tasks: int
    duplicates: int
    enqueued_again: int | None
    lost_by_worker: int
    calls: int
    replayed: int
    late: int
    producer_starts: int
    workers_ended: int
    rss_mib: float
    open_files: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def soak(variant: Variant, seed: int, seconds: float, records: Database, *, evenly: bool = False) -> Summary:
    """Run *variant* under the faults of *seed* for *seconds*, then until everything has come; check all of it.

    With *evenly*, each fault comes as often as any other, even where it takes long to recover from.

    Raises:
        AssertionError: a promise was broken, or something did not recover; seed and schedule are printed.
    """
    print(f"soak: {variant}, seed {seed}", flush=True)
    struck: list[tuple[Strike, float]] = []
    with explained(variant, seed, seconds, struck, evenly=evenly), running(variant, seed, records) as world:
        began = time.monotonic()
        for burst in bursts(seed, possible(world, evenly=evenly)):
            for strike in burst:
                inject(world, strike, struck)
                world.check()
                time.sleep(strike.gap_seconds)
            recovered = world.await_confirmed(RECOVERY_SECONDS)
            print(f"{', '.join(map(str, burst))}: {recovered:.1f} s", flush=True)
            if time.monotonic() - began > seconds:
                break
        for writer in world.writers:
            writer.stop()
        world.await_confirmed(RECOVERY_SECONDS)
        lost = await_tasks(world)
        for producer in world.producers:
            # One that was killed a moment ago may still be starting.
            wait_until(lambda it=producer: it.has_spoken, RECOVERY_SECONDS, f"{producer.name} runs")  # type: ignore[misc]
            code = producer.end()
            assert code == 0, f"{producer.name} ended with {code}:\n{producer.tail()}"
        world.footprint.stop()
        return verdict(world, seed, time.monotonic() - began, struck, lost)


@contextmanager
def explained(
    variant: Variant, seed: int, seconds: float, struck: list[tuple[Strike, float]], *, evenly: bool
) -> Iterator[None]:
    """Print what repeats a soak that fails."""
    try:
        yield
    except BaseException:
        print(f"FAILED: {variant}, seed {seed}, after {len(struck)} faults:")
        for strike, _ in struck:
            print(f"  {strike}")
        extra = " SPOOL=1" * variant.spool + " ONCE=1" * variant.once + " EVENLY=1" * evenly
        print(f"repeat: make soak SECONDS={seconds:g} SEED={seed} BROKER={variant.broker}{extra}", flush=True)
        raise


def inject(world: World, strike: Strike, struck: list[tuple[Strike, float]]) -> None:
    """Do what *strike* says, and undo it; note when that was done."""
    with FAULTS[strike.fault][0](world, strike.draw):
        time.sleep(strike.hold_seconds)
        if strike.within is not None:
            inject(world, strike.within, struck)
    struck.append((strike._replace(within=None), time.time()))


def await_tasks(world: World) -> set[str]:
    """Wait until every change's task has run; returns the ids of those that killed workers took with them.

    That is Valkey's and kombu's: a worker takes a task from the list, and only then notes that it has it
    (kombu #1836). RabbitMQ keeps each until it is acknowledged.
    """
    expected = evidence.committed(world.database).changes
    left, since = -1, time.monotonic()
    while True:
        world.check()
        ran = {
            tuple(row) for row in world.records.execute("SELECT DISTINCT tab, type, key, version FROM runs")
        }
        missing = {change for change in expected if tuple(change) not in ran}
        if not missing:
            return set()
        now = time.monotonic()
        if len(missing) != left:
            left, since = len(missing), now
        if isinstance(world.broker, Valkey) and _is_empty(world.broker):
            lost = _enqueued(world.broker) - {run.id for run in evidence.runs(world.records)}
            if len(lost) == len(missing):
                return lost
        assert now - since < DRAIN_SECONDS, (
            f"{len(missing)} of {len(expected)} changes had no task run, no progress for {DRAIN_SECONDS} s; "
            f"missing: {sorted(missing)[:10]}\n{world.describe()}"
        )
        time.sleep(1)


def _is_empty(broker: Valkey) -> bool:
    with broker.client() as client:
        return not client.llen("faults") and not client.hlen("unacked")


def _enqueued(broker: Valkey) -> set[str]:
    return {task.id for task in pushed(broker.folder, "faults")}


def verdict(
    world: World, seed: int, seconds: float, struck: list[tuple[Strike, float]], lost: set[str]
) -> Summary:
    """Check everything, and sum it up."""
    expected = evidence.committed(world.database)
    ran = evidence.runs(world.records)
    called = {table: evidence.calls(world.journals, table) for table in TABLES}
    placed = evidence.positions(expected, ran, [call for calls in called.values() for call in calls])
    assert placed.keys() == expected.transactions.keys()
    duplicates = evidence.check_tasks(expected, ran, lost)
    orders = [evidence.check_order(table, placed, called[table]) for table in TABLES]
    again = None
    if isinstance(world.broker, Valkey):
        again = evidence.check_pushed(pushed(world.broker.folder, "faults"), once=world.variant.once)
        # Otherwise a worker had acknowledged them, and not run them: then it would not be kombu's 1836.
        noted = lost - never_noted(world.broker.folder, "faults")
        assert not noted, f"{len(noted)} tasks were noted as taken, and never ran: {sorted(noted)[:10]}"
    kills = sum(1 for strike, _ in struck if strike.fault in ("kill worker", "kill broker"))
    assert len(lost) <= kills * len(world.workers), f"{len(lost)} tasks lost by {kills} killed workers"
    footprint = world.footprint
    assert 0 < footprint.rss_kib < MOST_RSS_MIB * 1024, f"a producer had {footprint.rss_kib} KiB"
    assert 0 < footprint.open_files < MOST_OPEN_FILES, f"a producer had {footprint.open_files} open files"
    return Summary(
        variant=str(world.variant),
        seed=seed,
        seconds=round(seconds, 1),
        faults=dict(Counter(strike.fault for strike, _ in struck)),
        recoveries=_recoveries(struck, [call for calls in called.values() for call in calls]),
        transactions=len(expected.transactions),
        events=len(expected.changes),
        tasks=len(ran),
        duplicates=duplicates,
        enqueued_again=again,
        lost_by_worker=len(lost),
        calls=sum(order.calls for order in orders),
        replayed=sum(order.replayed for order in orders),
        late=sum(order.late for order in orders),
        producer_starts=sum(producer.starts for producer in world.producers),
        workers_ended=len(world.mourned),
        rss_mib=round(footprint.rss_kib / 1024, 1),
        open_files=footprint.open_files,
    )


def _recoveries(struck: list[tuple[Strike, float]], called: list[Call]) -> dict[str, list[float]]:
    """For each fault, how long after its end a batch handler got a change that was committed after that end.

    Not until a task ran: a worker is Celery's, and waits up to 30 s between tries to reach its broker.
    """
    found: dict[str, list[float]] = {}
    for strike, ended in struck:
        first = min((call.called for call in called if call.committed >= ended), default=None)
        if first is not None:
            found.setdefault(strike.fault, []).append(round(first - ended, 2))
    return found


def show(summaries: list[Summary]) -> None:
    """Print what came out."""
    console = Console(width=140)
    table = Table(title="Faults injected and survived")
    for column in ("fault", "injected", "survived", "recovery median s", "max s"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for fault in FAULTS:
        count = sum(summary.faults.get(fault, 0) for summary in summaries)
        times = [seconds for summary in summaries for seconds in summary.recoveries.get(fault, [])]
        median, longest = (f"{statistics.median(times):.2f}", f"{max(times):.2f}") if times else ("-", "-")
        table.add_row(fault, str(count), str(count), median, longest)
    console.print(table)
    for one in summaries:
        again = "" if one.enqueued_again is None else f", {one.enqueued_again} enqueued again"
        console.print(
            f"{one.variant} (seed {one.seed}, {one.seconds:.0f} s): {one.transactions} transactions, {one.events} "
            f"events, {one.tasks} task runs, {one.duplicates} duplicates with the same id{again}, "
            f"{one.lost_by_worker} lost by killed workers; {one.calls} handler calls, {one.replayed} events replayed, "
            f"{one.late} late calls; {one.producer_starts} producer starts, {one.workers_ended} workers ended by "
            f"themselves; producer's peak {one.rss_mib} MiB, {one.open_files} open files"
        )
