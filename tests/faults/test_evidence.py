"""The judges of a soak: each broken promise is found."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.broker.support import VALUE
from tests.faults import evidence
from tests.faults.aof import Pushed, never_noted, pushed
from tests.faults.evidence import Call, Committed, Run
from tests.faults.faults import FAULTS
from tests.faults.load import Change
from tests.faults.schedule import bursts

A, B, C, D, E = (Change("items", "insert", key, 1) for key in range(5))
EXPECTED = Committed({(0, 1): [A, B], (1, 1): [C], (0, 2): [D, E]})
LSNS = {A: (10, 0), B: (10, 1), C: (20, 0), D: (30, 0), E: (30, 1)}


def run(change: Change, id_: str | None = None) -> Run:
    return Run(id_ or f"id {change.key}", *LSNS[change], change, 0.0, 0.0)


def call(pid: int, *changes: Change) -> Call:
    return Call(pid, LSNS[changes[0]][0], 0, 0, [(LSNS[change][1], change) for change in changes])


def order(*called: Call) -> evidence.Order:
    placed = evidence.positions(EXPECTED, [run(change) for change in LSNS], called)
    return evidence.check_order("items", placed, called)


def test_duplicates_with_the_same_id_are_counted() -> None:
    assert evidence.check_tasks(EXPECTED, [run(change) for change in (A, B, C, D, A, E)], set()) == 1


@pytest.mark.parametrize(
    ("ran", "said"),
    [
        ([run(change) for change in (A, B, C, D)], "1 never ran"),
        ([*map(run, LSNS), run(A, "another")], "several ids"),
        ([*map(run, (A, B, C, D)), run(E, "id 0")], "ids that several changes had"),
        ([*map(run, LSNS), Run("id 9", 40, 0, Change("items", "insert", 9, 1), 0, 0)], "never committed"),
    ],
)
def test_tasks_that_are_not_right(ran: list[Run], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        evidence.check_tasks(EXPECTED, ran, set())


def test_calls_that_go_on_begin_again_or_are_taken_over() -> None:
    assert order(call(1, A, B), call(1, C), call(1, D), call(1, E)) == (4, 0, 0)
    assert order(call(1, A, B), call(1, C), call(1, C), call(1, D, E)) == (4, 1, 0)
    assert order(call(1, A, B), call(2, C), call(1, D, E)) == (3, 0, 0)
    assert order(call(1, A, B), call(1, C), call(1, D), call(2, C), call(2, D), call(1, E), call(2, E)) == (
        7,
        3,
        1,
    )
    assert order(call(1, A), call(2, A, B), call(1, B), call(2, C), call(2, D, E)) == (5, 2, 1)


@pytest.mark.parametrize(
    ("called", "said"),
    [
        ([call(1, A, B), call(1, D, E)], "begins at event 3"),
        ([call(1, A, B), call(1, C), call(2, D, E), call(1, B)], "begins at event 1"),
        ([call(1, B, A)], "out of order"),
        ([call(1, A, B), call(1, C), call(1, D)], "1 events never came"),
    ],
)
def test_calls_that_are_not_right(called: list[Call], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        order(*called)


def test_a_transaction_comes_whole_and_in_order() -> None:
    swapped = [run(change) for change in (A, C, D, E)] + [Run("id 1", 11, 1, B, 0, 0)]
    with pytest.raises(AssertionError, match="came as several"):
        evidence.positions(EXPECTED, swapped, [])
    swapped = [Run("a", 10, 1, A, 0, 0), Run("b", 10, 0, B, 0, 0)]
    with pytest.raises(AssertionError, match="out of order"):
        evidence.positions(EXPECTED, swapped, [])
    with pytest.raises(AssertionError, match="came as"):
        evidence.positions(EXPECTED, [run(A), Run("a", 12, 0, A, 0, 0)], [])


def test_enqueued_again_and_out_of_order() -> None:
    first, second = Pushed("a", 10, 0), Pushed("b", 20, 0)
    assert evidence.check_pushed([first, second, first], once=False) == 1
    with pytest.raises(AssertionError, match="enqueued twice"):
        evidence.check_pushed([first, second, first], once=True)
    with pytest.raises(AssertionError, match="out of order"):
        evidence.check_pushed([second, first], once=False)


def test_what_was_enqueued_is_read_from_the_file(tmp_path: Path) -> None:
    body = json.dumps([[{"__type__": "walex.event", "__value__": VALUE.decode()}], {}, {}])
    encoded = base64.b64encode(body.encode()).decode()
    messages = [json.dumps({"headers": {"id": id_}, "body": encoded}).encode() for id_ in ("a", "b", "c")]
    restored = messages[0].replace(b'"headers": {', b'"headers": {"redelivered": true, ')
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    whole = resp(b"LPUSH", b"q", *messages[:2]) + resp(b"MULTI") + resp(b"LPUSH", b"other", b"x")
    (folder / "a.aof.1.incr.aof").write_bytes(whole + resp(b"lpush", b"q", restored))
    (folder / "a.aof.2.incr.aof").write_bytes(
        resp(b"LPUSH", b"q", messages[2]) + resp(b"LPUSH", b"q", b"y")[:-4]
    )
    assert pushed(tmp_path, "q") == [Pushed(id_, 0x16B3748, 0) for id_ in "abc"]


def test_what_a_worker_noted_is_read_from_the_file(tmp_path: Path) -> None:
    a, b, c = (json.dumps({"headers": {"id": id_}}).encode() for id_ in "abc")
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    taken = [resp(b"HSET", b"unacked", b"tag", b'[%b,"",""]' % message) for message in (a, b)]
    back = resp(b"HDEL", b"unacked", b"tag") + resp(b"RPUSH", b"q", b)
    whole = resp(b"LPUSH", b"q", a, b, c) + b"".join(taken) + back
    (folder / "a.aof.1.incr.aof").write_bytes(whole)
    assert never_noted(tmp_path, "q") == {"b", "c"}


def resp(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def test_a_seed_tells_the_whole_schedule() -> None:
    weights = {name: weight for name, (_, weight) in FAULTS.items()}
    one, same, other = (bursts(seed, weights) for seed in (7, 7, 8))
    first = [next(one) for _ in range(50)]
    assert first == [next(same) for _ in range(50)]
    assert first != [next(other) for _ in range(50)]
    assert {strike.fault for burst in first for strike in burst} == set(FAULTS)
