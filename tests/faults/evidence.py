"""What must hold at the end, whatever was done to whom: DESIGN.md's promises 1, 2 and 3."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.faults.aof import Pushed
from tests.faults.load import Change
from tests.support import Database


class Run(NamedTuple):
    """A task that ran, as its worker noted it; times are in seconds since 1970."""

    id: str
    lsn: int
    place: int
    change: Change
    committed: float
    ran: float


class Call(NamedTuple):
    """A call of a batch handler, by the process *pid*; for each event its index and its change.

    Times are in seconds since 1970: of the commit, and of the call.
    """

    pid: int
    lsn: int
    committed: float
    called: float
    events: list[tuple[int, Change]]


@dataclass(frozen=True)
class Committed:
    """What the load committed: the changes of each transaction, in order."""

    transactions: dict[tuple[int, int], list[Change]]

    @property
    def changes(self) -> set[Change]:
        """All of them; none is there twice."""
        return {change for changes in self.transactions.values() for change in changes}


def committed(database: Database) -> Committed:
    """Read what was committed."""
    transactions: dict[tuple[int, int], list[Change]] = defaultdict(list)
    for writer, number, *change in database.execute(
        "SELECT writer, number, tab, type, key, version FROM done ORDER BY writer, number, ordinal"
    ):
        transactions[writer, number].append(Change(*change))
    return Committed(dict(transactions))


def runs(records: Database) -> list[Run]:
    """Read which tasks ran, in the order in which they did."""
    return [
        Run(id_, lsn, index, Change(tab, type_, key, version), float(at), float(ran))
        for id_, lsn, index, tab, type_, key, version, at, ran in records.execute(
            "SELECT id, lsn, index, tab, type, key, version, extract(epoch FROM committed),"
            " extract(epoch FROM ran) FROM runs ORDER BY ran"
        )
    ]


def calls(folder: Path, table: str) -> list[Call]:
    """Read which calls the batch handler of *table* got, in order."""
    path = folder / f"{table}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [
        Call(pid, lsn, at, called, [(index, Change(table, *change)) for index, *change in events])
        for pid, lsn, at, called, events in map(json.loads, lines)
    ]


def positions(
    expected: Committed, ran: Iterable[Run], called: Iterable[Call]
) -> dict[tuple[int, int], list[tuple[int, Change]]]:
    """The expected events by LSN: index and change, in order; by (LSN, index) each change is in one place."""
    where: dict[Change, tuple[int, int]] = {}
    seen = [(run.change, (run.lsn, run.place)) for run in ran]
    seen += [(change, (call.lsn, index)) for call in called for index, change in call.events]
    for change, place in seen:
        assert where.setdefault(change, place) == place, f"{change} came as {where[change]} and as {place}"
    found = {}
    for transaction, changes in expected.transactions.items():
        places = [where[change] for change in changes if change in where]
        assert len({lsn for lsn, _ in places}) <= 1, f"transaction {transaction} came as several: {places}"
        assert places == sorted(places), f"the events of transaction {transaction} are out of order: {places}"
        if places:
            found[transaction] = [(lsn, change) for (lsn, _), change in zip(places, changes, strict=True)]
    return found


def check_tasks(expected: Committed, ran: Sequence[Run], lost_by_worker: set[str]) -> int:
    """Every change's task ran, nothing else did, and duplicates have the id of the first; returns their number.

    Args:
        expected: what was committed.
        ran: the runs.
        lost_by_worker: ids of tasks that were enqueued, and that a killed worker took with it.
    """
    ids: dict[Change, set[str]] = defaultdict(set)
    changes: dict[str, set[Change]] = defaultdict(set)
    for run in ran:
        ids[run.change].add(run.id)
        changes[run.id].add(run.change)
    never_committed = ids.keys() - expected.changes
    assert not never_committed, f"tasks of what was never committed: {sorted(never_committed)[:10]}"
    missing = expected.changes - ids.keys()
    assert len(missing) <= len(lost_by_worker), f"{len(missing)} never ran: {sorted(missing)[:10]}"
    several = {change: found for change, found in ids.items() if len(found) > 1}
    assert not several, f"changes whose tasks had several ids: {list(several.items())[:5]}"
    shared = {id_: found for id_, found in changes.items() if len(found) > 1}
    assert not shared, f"ids that several changes had: {list(shared.items())[:5]}"
    return len(ran) - len(changes)


class Order(NamedTuple):
    """What a check of a batch handler's calls saw.

    Attributes:
        calls: how many there were.
        replayed: events that came again.
        late: calls by a producer that had lost its slot to another one, and did not know it yet.
    """

    calls: int
    replayed: int
    late: int


def check_order(
    table: str,
    placed: dict[tuple[int, int], list[tuple[int, Change]]],
    called: Sequence[Call],
) -> Order:
    """A batch handler got every event, in the order of commits, and nothing was left out, ever.

    A producer may begin with any transaction that came already, or with the first that did not; then it goes on
    event by event.
    """
    by_lsn = {
        changes[0][0]: [change for _, change in changes if change.table == table]
        for changes in placed.values()
    }
    order = [(lsn, change) for lsn in sorted(by_lsn) for change in by_lsn[lsn]]
    place = {change: number for number, (_, change) in enumerate(order)}
    begins = {number for number, (lsn, _) in enumerate(order) if not number or order[number - 1][0] != lsn}
    last_of: dict[int, int] = {}
    furthest, replayed, late, last_pid = -1, 0, 0, 0
    for number, call in enumerate(called):
        found = [place[change] for _, change in call.events]
        where = f"call {number} of {table}, process {call.pid}, LSN {call.lsn:X}"
        assert found == list(range(found[0], found[0] + len(found))), f"{where}: out of order: {call.events}"
        follows = found[0] == last_of.get(call.pid, -2) + 1
        again = found[0] in begins and found[0] <= furthest + 1
        assert follows or again, (
            f"{where}: begins at event {found[0]}; this process was at {last_of.get(call.pid)}, all at {furthest}"
        )
        replayed += max(0, min(found[-1], furthest) - found[0] + 1)
        late += follows and call.pid != last_pid and found[0] <= furthest
        last_of[call.pid] = found[-1]
        furthest = max(furthest, found[-1])
        last_pid = call.pid
    assert furthest == len(order) - 1, (
        f"{table}: {len(order) - 1 - furthest} events never came to the handler"
    )
    return Order(len(called), replayed, late)


def check_pushed(found: Sequence[Pushed], *, once: bool) -> int:
    """Tasks were enqueued in order, as far as they were new; returns how many were enqueued again.

    Args:
        found: what was enqueued.
        once: whether none may be enqueued again.
    """
    first = list({task.id: task for task in found}.values())
    places = [(task.lsn, task.place) for task in first]
    wrong = next((n for n in range(1, len(places)) if places[n] < places[n - 1]), None)
    assert wrong is None, f"enqueued out of order: {first[wrong - 1 : wrong + 1] if wrong else ()}"
    again = len(found) - len(first)
    assert not (once and again), f"{again} tasks were enqueued twice, though exactly_once_enqueue is set"
    return again
