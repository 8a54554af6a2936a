"""The largest that Postgres has: 1,600 columns, a row of 100 MB (promises 4 and 7)."""

from __future__ import annotations

import resource
import sys

from tests.fidelity.reader import Reader
from tests.fidelity.shadow import Shadow
from walex_celery import Event

MEGABYTE = 1024 * 1024


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def test_1600_columns(shadow: Shadow) -> None:
    names = [f"column {number}" for number in range(1600)]
    types = ("int", "text", "bool", "int[]")
    columns = ", ".join(f'"{name}" {types[number % 4]}' for number, name in enumerate(names))
    shadow.define(f"CREATE TABLE t ({columns})", "ALTER TABLE t REPLICA IDENTITY FULL")
    shadow.start()

    shadow.execute(
        f'INSERT INTO t ("{names[0]}", "{names[1597]}", "{names[1598]}", "{names[1599]}")'
        " VALUES (1, 'last', true, '{1}')",
        f'UPDATE t SET "{names[800]}" = 7',
        f'DELETE FROM t WHERE "{names[0]}" = 1',
        "INSERT INTO t DEFAULT VALUES",
    )

    first, second, *_ = shadow.follow()
    shadow.same()
    assert list(first.source.columns) == names
    assert first.new_record is not None
    assert first.new_record[names[1599]] == [1]
    assert second.changes == {names[800]: (7, None)}


def test_a_row_of_100_megabytes(shadow: Shadow) -> None:
    """In one piece: in the producer about five times its size (as read, cut, as JSON), in a worker as much again."""
    shadow.define(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b bytea, n int)", "CREATE PUBLICATION p FOR TABLE t"
    )
    with Reader(shadow.source, ["p"]) as reader:
        half = 50 * MEGABYTE
        shadow.execute(
            f"INSERT INTO t VALUES (1, repeat('żó', {half // 4}), decode(repeat('ff', {half // 2}), 'hex'), 0)",
            "UPDATE t SET n = 1",
        )
        at_first = peak_memory()

        first, second = reader.read()
        text = first.to_json()

    in_producer = peak_memory() - at_first
    received = Event.from_json(text)
    assert received.new_record is not None
    assert received.new_record["a"] == "żó" * (half // 4)
    assert received.new_record["b"] == b"\xff" * (half // 2)
    assert second.new_record == {"id": 1, "n": 1}
    shadow.apply(received)
    shadow.same("t", columns=["id", "a", "b"])
    print(f"peak memory: {in_producer / MEGABYTE:.0f} MB more in the producer")
    print(f"{(peak_memory() - at_first) / MEGABYTE:.0f} MB with worker and copy")
    assert in_producer < 8 * 100 * MEGABYTE
