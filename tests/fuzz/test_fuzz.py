"""Promise 10: any bytes from the socket give messages or a DecodeError, in bounded time and memory.

A real stream is recorded, then damaged. ``make fuzz`` repeats a run of a million inputs; ``WALEX_FUZZ_INPUTS`` and
``WALEX_FUZZ_SEED`` say how many and which. A failure prints the input.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.events.values.samples import SAMPLES
from tests.fidelity.shadow import Shadow
from tests.fidelity.test_sizes import MEGABYTE, peak_memory
from tests.fuzz.mutation import Mutator
from walex_celery import DecodeError, Event
from walex_celery.events.event import Source
from walex_celery.events.shape import Shape
from walex_celery.filters import Filters, Table
from walex_celery.handlers.kinds import OF_TABLES
from walex_celery.handlers.registry import Handler
from walex_celery.handlers.routes import message_route, route_of
from walex_celery.pipeline.assembler import new_assembler
from walex_celery.pipeline.table_plan import Planning, TablePlan
from walex_celery.postgres.pgoutput import Relation, decode
from walex_celery.testing.servers import Postgres

Input = TypeVar("Input")

INPUTS = int(os.environ.get("WALEX_FUZZ_INPUTS", "40000"))
SEED = int(os.environ.get("WALEX_FUZZ_SEED", "1"))
#: Of an input: a thousand times what the slowest takes, for the machine may be busy with others.
LONGEST_SECONDS = 5.0


@pytest.fixture(scope="module")
def recorded(postgres: Postgres) -> Iterator[tuple[list[bytes], dict[int, str]]]:
    """A stream with messages of each kind, and the names of built-in types by oid."""
    with Shadow(postgres) as shadow:
        names = [name for name in SAMPLES if name != '"char"']
        shadow.define(
            "CREATE TABLE t (id int PRIMARY KEY, a text, b text, j jsonb, n numeric, f bool)",
            "CREATE TABLE f (id int, a text, j json, n int[], at timestamptz)",
            "ALTER TABLE f REPLICA IDENTITY FULL",
            "CREATE TYPE mood AS ENUM ('sad')",
            "CREATE TABLE m (m mood, ms mood[])",
        )
        for name in names:
            shadow.define(f'CREATE TABLE "of {name}" (value {name})')
        shadow.start()
        shadow.execute(
            "INSERT INTO t SELECT g, 'a' || g, repeat(md5(g::text), 100), '{\"a\": [1, null]}', g / 3.0, true"
            " FROM generate_series(1, 5) g",
            "UPDATE t SET a = NULL", "UPDATE t SET id = id + 10", "DELETE FROM t WHERE id = 11",
            "INSERT INTO f SELECT g, 'ż', 'null', '{1,NULL}', now() FROM generate_series(1, 5) g",
            "UPDATE f SET a = a || '!'", "DELETE FROM f WHERE id = 1", "TRUNCATE t, f",
            "INSERT INTO m VALUES ('sad', '{sad}')",
            "SELECT pg_logical_emit_message(true, 'p', 'content'), pg_logical_emit_message(false, 'q', '\\xff')",
            "SELECT pg_replication_origin_create('walex_fuzz')",
            "SELECT pg_replication_origin_session_setup('walex_fuzz')",
            "INSERT INTO t VALUES (1, 'from elsewhere')",
            "SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_drop('walex_fuzz')",
        )  # fmt: skip
        for name in names:
            literals = ", ".join(f"(({literal})::{name})" for literal, _ in SAMPLES[name])
            shadow.execute(f'INSERT INTO "of {name}" VALUES {literals}')
        shadow.read()
        types = dict(
            shadow.source.execute(
                "SELECT t.oid::bigint, CASE WHEN e.oid IS NULL THEN t.typname ELSE e.typname || '[]' END FROM pg_type t"
                " LEFT JOIN pg_type e ON e.typarray = t.oid WHERE t.typnamespace = 'pg_catalog'::regnamespace"
            )
        )
        yield list(shadow.payloads), types


def test_all_kinds_of_messages_are_recorded(recorded: tuple[list[bytes], dict[int, str]]) -> None:
    messages, _ = recorded

    assert {message[:1] for message in messages} == {bytes([kind]) for kind in b"BCORYIUDTM"}


def test_a_damaged_message_is_one_or_an_error(recorded: tuple[list[bytes], dict[int, str]]) -> None:
    messages, _ = recorded
    mutator = Mutator(messages, SEED)

    def take(payload: bytes) -> str:
        try:
            return type(decode(payload)).__name__
        except DecodeError:
            return "DecodeError"

    found = _run("messages", INPUTS * 4 // 5, mutator.message, take, bytes.hex)
    assert len(found) == 11


def test_a_damaged_stream_gives_events_or_an_error(recorded: tuple[list[bytes], dict[int, str]]) -> None:
    """Up to the values that a worker gets of it."""
    messages, types = recorded
    mutator = Mutator(messages, SEED)
    plan = _planning(types)
    source = Source("WalEx", "1", "shop", "", "", {})
    everything = _handler("on_message")

    def take(stream: list[bytes]) -> str:
        assembler = new_assembler(
            Planning(plan, lambda prefix: message_route([everything], prefix), source, lambda _: None)
        )
        told = "nothing"
        try:
            for payload in stream:
                chunk = assembler.feed(payload)
                for routed in chunk.routed if chunk is not None else ():
                    told = routed.event.type
                    _look_at(routed.event)
                    _look_at(Event.from_json(routed.event.to_json()))
        except DecodeError:
            return "DecodeError"
        return told

    found = _run(
        "streams",
        INPUTS // 5,
        mutator.stream,
        take,
        lambda stream: " ".join(payload.hex() for payload in stream),
    )
    assert found.keys() >= {"DecodeError", "insert", "update", "delete", "truncate", "message", "nothing"}


def _run(
    what: str,
    inputs: int,
    make: Callable[[], Input],
    take: Callable[[Input], str],
    told: Callable[[Input], str],
) -> Counter[str]:
    found: Counter[str] = Counter()
    before = peak_memory()
    started = last = time.monotonic()
    slowest = 0.0
    for number in range(inputs):
        damaged = make()
        try:
            found[take(damaged)] += 1
        except Exception as error:
            error.add_note(f"seed {SEED}, input {number} of the {what}: {told(damaged)}")
            raise
        now = time.monotonic()
        slowest = max(slowest, now - last)
        last = now
    seconds = last - started
    grown = (peak_memory() - before) / MEGABYTE
    print(
        f"\nseed {SEED}: {inputs} {what} in {seconds:.0f} s ({inputs / seconds:.0f}/s),"
        f" slowest {slowest * 1000:.0f} ms, memory grew by {grown:.0f} MB: {dict(found.most_common())}"
    )
    assert slowest < LONGEST_SECONDS
    assert grown < 200
    return found


def _look_at(event: Event) -> None:
    """Whatever a handler may read of it."""
    repr(event)
    for record in (event.new_record, event.old_record, event.old_key, event.key, event.changes):
        if record is not None:
            dict(record)
    assert event.timestamp is not None
    assert event.content is None or isinstance(event.content, bytes)


def _handler(kind: str) -> Handler:
    return Handler(kind, None, None, Filters(), (), None, __name__)


def _planning(types: dict[int, str]) -> Callable[[Relation], TablePlan | None]:
    """As the planner, without a catalog: a damaged oid is no question for a server."""
    everything = _handler("on_event")

    def plan(relation: Relation) -> TablePlan | None:
        columns = {column.name: types.get(column.type_oid, "text") for column in relation.columns}
        shape = Shape(columns, {})
        key = tuple(column.name for column in relation.columns if column.key)
        source = Source("WalEx", "1", "shop", relation.namespace, relation.name, columns, key)
        table = Table(relation.namespace, relation.name)
        return TablePlan(
            source, shape, {kind: route_of([everything], table, kind, shape) for kind in OF_TABLES}
        )

    return plan
