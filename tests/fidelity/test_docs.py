"""docs/types.md says what comes of a real server: NULL and JSON's null, and keys that change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.fidelity.shadow import Shadow
from walex_celery import Change, Event
from walex_celery.filters import Filters

PAGE = (Path(__file__).parents[2] / "docs" / "types.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of its table, which are code, without their backquotes."""
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in lines]


def value_of(cell: str) -> Any:
    return eval(cell, {"Change": Change})


@pytest.mark.parametrize("type_name", ["json", "jsonb"])
def test_null_and_json_s_null(shadow: Shadow, type_name: str) -> None:
    table = rows(section("NULL and JSON's null"))
    shadow.execute(
        f"CREATE TABLE t (id int PRIMARY KEY, data {type_name})", "ALTER TABLE t REPLICA IDENTITY FULL"
    )
    shadow.start()

    for number, (literal, *_) in enumerate(table):
        shadow.execute(f"INSERT INTO t VALUES ({number}, {literal})")
    produced: list[Event] = []
    received = shadow.read(produced)

    assert len(table) == 4
    for events in (produced, received):
        for event, (_, value, text) in zip(events, table, strict=True):
            assert event.new_record["data"] == value_of(value)
            assert event.new_record.texts()["data"] == value_of(text)
    assert [Filters(unwatched_records={"data": None}).accepts(event) for event in received] == [
        False, False, True, True
    ]  # fmt: skip


def test_from_one_null_to_the_other_is_a_change(shadow: Shadow) -> None:
    shadow.execute(
        "CREATE TABLE t (id int PRIMARY KEY, data jsonb, note text)", "ALTER TABLE t REPLICA IDENTITY FULL"
    )
    shadow.start()

    shadow.execute("INSERT INTO t VALUES (1)", "UPDATE t SET data = 'null', note = 'b'")
    _, event = shadow.read()

    assert event.changes == {"data": Change(None, None), "note": Change("b", None)}
    assert Filters(unwatched_fields=["note"]).accepts(event)
    assert not Filters(unwatched_fields=["note", "data"]).accepts(event)


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL", "USING INDEX orders_pkey"])
def test_keys_that_change(shadow: Shadow, identity: str) -> None:
    text = section("Keys, and updates that change them")
    table = rows(text)
    shadow.execute(
        "CREATE TABLE orders (shop int, id int, note text, PRIMARY KEY (shop, id))",
        f"ALTER TABLE orders REPLICA IDENTITY {identity}",
    )
    shadow.start()

    shadow.execute("INSERT INTO orders VALUES (1, 7, 'a')", *(statement for statement, *_ in table))
    events = shadow.read()

    assert len(table) == 4
    for event, (_, key, old_key, changes) in zip(events[1:], table, strict=True):
        assert (event.key, event.old_key) == (value_of(key), value_of(old_key))
        assert event.changes == (value_of(changes) if identity == "FULL" else None)
        assert event.source.key == ("shop", "id")
    follow(text, events)


def follow(text: str, events: list[Event]) -> None:
    """The page's function keeps an index by key, which has the rows that there are."""
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    namespace: dict[str, Any] = {"index": {}}
    exec(compile(code, "docs/types.md", "exec"), namespace)
    sizes = []
    for event in events:
        namespace["index_order"](event)
        sizes.append(len(namespace["index"]))
    assert sizes == [1, 1, 1, 1, 0]


def test_with_another_index_the_primary_key_is_no_key(shadow: Shadow) -> None:
    shadow.execute(
        "CREATE TABLE t (id int PRIMARY KEY, email text NOT NULL)",
        "CREATE UNIQUE INDEX by_email ON t (email)",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX by_email",
    )
    shadow.start()

    shadow.execute("INSERT INTO t VALUES (1, 'a')", "UPDATE t SET id = 2", "UPDATE t SET email = 'b'")
    _, first, second = shadow.read()

    assert (first.key, first.old_key) == ({"email": "a"}, None)
    assert (second.key, second.old_key) == ({"email": "b"}, {"email": "a"})


def test_full_without_a_primary_key_has_no_key(shadow: Shadow) -> None:
    shadow.execute("CREATE TABLE t (a int)", "ALTER TABLE t REPLICA IDENTITY FULL")
    shadow.start()

    shadow.execute("INSERT INTO t VALUES (1)", "UPDATE t SET a = 2", "DELETE FROM t")

    assert [(event.key, event.old_key) for event in shadow.read()] == [(None, None)] * 3


@pytest.mark.parametrize("via_root", [False, True])
def test_a_move_to_another_partition_is_a_delete_and_an_insert(shadow: Shadow, via_root: bool) -> None:
    shadow.execute(
        "CREATE TABLE p (id int PRIMARY KEY, note text) PARTITION BY RANGE (id)",
        "CREATE TABLE p_low PARTITION OF p FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE p_high PARTITION OF p FOR VALUES FROM (10) TO (20)",
    )
    shadow.start(f"FOR TABLE p WITH (publish_via_partition_root = {via_root})")

    shadow.execute("INSERT INTO p VALUES (1, 'a')", "UPDATE p SET id = 11")
    _, deleted, inserted = shadow.read()

    assert (deleted.type, deleted.key, deleted.old_key) == ("delete", {"id": 1}, None)
    assert (inserted.type, inserted.key, inserted.old_key) == ("insert", {"id": 11}, None)
    assert (deleted.name, inserted.name) == (("p", "p") if via_root else ("p_low", "p_high"))
