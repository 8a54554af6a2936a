"""Promise 7: a copy kept by events alone is the same as its source, for every replica identity."""

from __future__ import annotations

import json
import secrets

import pytest

from tests.events.values.samples import SAMPLES
from tests.fidelity.shadow import Shadow

IDENTITIES = {
    "DEFAULT": "ALTER TABLE t REPLICA IDENTITY DEFAULT",
    "FULL": "ALTER TABLE t REPLICA IDENTITY FULL",
    "USING INDEX": "CREATE UNIQUE INDEX by_b ON t (b, c); ALTER TABLE t REPLICA IDENTITY USING INDEX by_b",
}
each_identity = pytest.mark.parametrize("identity", IDENTITIES)

#: Too long for a page, and compression does not help: kept apart from its row (TOAST).
TOASTED = secrets.token_hex(5000)


@each_identity
def test_inserts_updates_and_deletes(shadow: Shadow, identity: str) -> None:
    shadow.define(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b int NOT NULL, c text NOT NULL)", IDENTITIES[identity]
    )
    shadow.start()

    shadow.execute(
        "INSERT INTO t SELECT g, 'a' || g, g, 'c' FROM generate_series(1, 5) g",
        "UPDATE t SET a = NULL WHERE id = 1",
        "UPDATE t SET id = 10, a = 'moved' WHERE id = 2",
        "UPDATE t SET c = 'else' WHERE id = 3",
        "UPDATE t SET b = b + 100",
        "DELETE FROM t WHERE id = 4",
    )

    events = shadow.follow()
    shadow.same()
    assert [event.index for event in events if event.xid == events[0].xid] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("identity", "key", "old_key"),
    [("DEFAULT", ("id",), {"id": 1}), ("FULL", ("id",), {"id": 1}), ("USING INDEX", ("b", "c"), None)],
)
def test_a_key_that_changes_is_told(
    shadow: Shadow, identity: str, key: tuple[str, ...], old_key: dict[str, int] | None
) -> None:
    shadow.define(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b int NOT NULL, c text NOT NULL)", IDENTITIES[identity]
    )
    shadow.start()

    shadow.execute("INSERT INTO t VALUES (1, 'a', 2, 'c')", "UPDATE t SET id = 3", "UPDATE t SET b = 4")

    _, first, second = shadow.follow()
    shadow.same()
    assert first.source.key == key
    assert first.old_key == old_key
    assert second.old_key == ({"b": 2, "c": "c"} if identity == "USING INDEX" else None)
    assert (first.changes is None) == (identity != "FULL")


def test_without_an_identity_inserts_are_told(shadow: Shadow) -> None:
    shadow.define("CREATE TABLE t (id int, a text)", "ALTER TABLE t REPLICA IDENTITY NOTHING")
    shadow.start()

    shadow.execute("INSERT INTO t VALUES (1, 'a'), (1, 'a'), (NULL, NULL)", "TRUNCATE t")
    shadow.execute("INSERT INTO t VALUES (2, 'b')")

    events = shadow.follow()
    shadow.same()
    assert [event.type for event in events] == ["insert"] * 3 + ["truncate", "insert"]
    assert events[0].key is None


def test_rows_that_nothing_tells_apart(shadow: Shadow) -> None:
    shadow.define("CREATE TABLE t (a text, b int)", "ALTER TABLE t REPLICA IDENTITY FULL")
    shadow.start()

    shadow.execute(
        "INSERT INTO t VALUES ('x', 1), ('x', 1), ('x', NULL), (NULL, NULL)",
        "UPDATE t SET b = 2 WHERE ctid = '(0,1)'",
        "DELETE FROM t WHERE ctid = '(0,2)'",
        "UPDATE t SET a = 'y' WHERE a IS NULL",
    )

    *_, event = shadow.follow()
    shadow.same()
    assert event.source.key == ()
    assert event.key is event.old_key is None
    assert event.changes is not None
    assert {name: tuple(change) for name, change in event.changes.items()} == {"a": ("y", None)}


def test_truncate_of_several_tables(shadow: Shadow) -> None:
    shadow.define("CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY REFERENCES a)")
    shadow.start()

    shadow.execute(
        "INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)", "TRUNCATE a RESTART IDENTITY CASCADE"
    )

    events = shadow.follow()
    shadow.same()
    assert {(event.name, event.cascade, event.restart_identity) for event in events[2:]} == {
        ("a", True, True),
        ("b", True, True),
    }


@each_identity
def test_toasted_values_that_an_update_leaves_alone(shadow: Shadow, identity: str) -> None:
    shadow.define(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b int NOT NULL, c text NOT NULL)", IDENTITIES[identity]
    )
    shadow.start()

    shadow.execute(
        f"INSERT INTO t VALUES (1, '{TOASTED}', 2, 'c'), (2, '{TOASTED}', 3, 'c')",
        "UPDATE t SET b = b + 10",
        "UPDATE t SET id = id + 10",
        f"UPDATE t SET a = 'z{TOASTED}' WHERE id = 11",
        "UPDATE t SET a = 'short', c = 'd' WHERE id = 12",
        "DELETE FROM t WHERE id = 11",
    )

    events = shadow.follow()
    shadow.same()
    for event in events[2:6]:
        assert event.new_record is not None
        if identity == "FULL":
            assert event.new_record["a"] == TOASTED
            assert event.changes is not None
            assert "a" not in event.changes
        else:
            assert "a" not in event.new_record
            assert event.new_record.get("a", "absent") == "absent"
            assert event.changes is None
    if identity == "FULL":
        assert events[6].changes is not None
        assert events[6].changes["a"] == ("z" + TOASTED, TOASTED)


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_a_toasted_value_in_the_key(shadow: Shadow, identity: str) -> None:
    shadow.define(
        "CREATE TABLE t (id text PRIMARY KEY, a int, b text)",
        "ALTER TABLE t ALTER id SET STORAGE EXTERNAL",
        f"ALTER TABLE t REPLICA IDENTITY {identity}",
    )
    shadow.start()
    key = secrets.token_hex(1200)

    shadow.execute(
        f"INSERT INTO t VALUES ('{key}', 1, '{TOASTED}')",
        "UPDATE t SET a = 2",
        "UPDATE t SET id = 'other', a = 3",
        "DELETE FROM t",
    )

    _, second, third, _ = shadow.follow()
    shadow.same()
    assert second.key == {"id": key}
    assert second.old_key is None
    assert third.key == {"id": "other"}
    assert third.old_key == {"id": key}


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_every_type(shadow: Shadow, identity: str) -> None:
    """Each sample of each type a row; updates that change nothing leave TOASTed ones alone."""
    names = [name for name in SAMPLES if name != '"char"']
    for name in names:
        shadow.define(
            f'CREATE TABLE "of {name}" (id int PRIMARY KEY, value {name}, many {name}[], n int)',
            f'ALTER TABLE "of {name}" REPLICA IDENTITY {identity}',
        )
    shadow.start()

    for name in names:
        for number, (literal, _) in enumerate(SAMPLES[name]):
            value = f"({literal})::{name}"
            shadow.execute(f'INSERT INTO "of {name}" VALUES ({number}, {value}, ARRAY[{value}, NULL], 0)')
        shadow.execute(
            f'UPDATE "of {name}" SET n = 1',
            f'INSERT INTO "of {name}" VALUES (-1)',
            f'UPDATE "of {name}" SET value = NULL WHERE id = 0',
        )

    shadow.follow()
    shadow.same()


def test_names_of_any_kind(shadow: Shadow) -> None:
    longest = "n" * 63
    schema, table = 'My "Schema".a', "żółw 🐢's; -- %s {0}"
    quoted = f'"{schema.replace(chr(34), chr(34) * 2)}"."{table}"'
    shadow.define(
        'CREATE SCHEMA "My ""Schema"".a"',
        'CREATE TYPE "My ""Schema"".a"."Mood[] ""x""" AS ENUM (\'a b\', \'"\')',
        f'CREATE TABLE {quoted} ("ID" int PRIMARY KEY, "a ""b""" text, "{longest}" int, "%s" text, " " text, "🐢" text,'
        ' "\\" text, "m" "My ""Schema"".a"."Mood[] ""x""", "M" "My ""Schema"".a"."Mood[] ""x"""[])',
        f'CREATE TABLE "{longest}" (id int PRIMARY KEY)',
    )
    shadow.start()

    shadow.execute(
        f"INSERT INTO {quoted} VALUES (1, 'x', 2, '%s', '', '🐢', E'\\\\', 'a b', '{{\"\\\"\"}}')",
        f'UPDATE {quoted} SET "ID" = 3, "🐢" = NULL',
        f'INSERT INTO "{longest}" VALUES (1)',
    )

    first, second, third = shadow.follow()
    shadow.same()
    assert first.source.schema == schema
    assert first.name == table
    assert first.new_record is not None
    assert first.new_record["M"] == ['"']
    assert json.loads(first.to_json())["new_record"]["ID"] == 1
    assert second.old_key == {"ID": 1}
    assert third.name == longest


def test_generated_and_identity_columns(shadow: Shadow) -> None:
    """Generated columns are not sent; a publication of 18 may ask for them (see test_publications)."""
    shadow.define(
        "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, a int,"
        " twice int GENERATED ALWAYS AS (a * 2) STORED)",
    )
    shadow.start()

    shadow.execute(
        "INSERT INTO t (a) VALUES (1), (2), (NULL)",
        "UPDATE t SET a = 5 WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
    )

    event, *_ = shadow.follow()
    shadow.same()
    assert event.new_record == {"id": 1, "a": 1}
    assert event.source.columns == {"id": "integer", "a": "integer"}


def test_a_table_without_columns(shadow: Shadow) -> None:
    shadow.define("CREATE TABLE t ()", "ALTER TABLE t REPLICA IDENTITY FULL")
    shadow.start()

    shadow.execute("INSERT INTO t DEFAULT VALUES", "INSERT INTO t DEFAULT VALUES")

    first, _ = shadow.follow()
    assert first.new_record == {}
    assert shadow.copy.execute("SELECT count(*) FROM t") == [(2,)]
