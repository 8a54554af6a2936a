"""Promise 7 for what a publication leaves out or turns around: columns, rows, partitions."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from tests.fidelity.shadow import Shadow
from tests.fidelity.test_shadow_copy import TOASTED
from walex_celery import Event
from walex_celery.errors import SetupError

Needs = Callable[[int], None]


@pytest.mark.parametrize("identity", ["DEFAULT", "NOTHING"])
def test_a_column_list(shadow: Shadow, needs_postgres: Needs, identity: str) -> None:
    needs_postgres(15)
    operations = "insert, update, delete, truncate" if identity == "DEFAULT" else "insert"
    shadow.execute("CREATE TABLE t (a text, id int PRIMARY KEY, b text, c text)")
    shadow.execute(f"ALTER TABLE t REPLICA IDENTITY {identity}")
    shadow.execute_on_copy("CREATE TABLE t (id int PRIMARY KEY, c text)")
    shadow.start(f"FOR TABLE t (c, id) WITH (publish = '{operations}')")

    shadow.execute("INSERT INTO t VALUES ('a', 1, 'b', 'c'), ('a', 2, 'b', NULL)")
    if identity == "DEFAULT":
        shadow.execute(
            "UPDATE t SET a = 'unseen' WHERE id = 1",
            "UPDATE t SET id = 3, c = 'd' WHERE id = 2",
            "DELETE FROM t WHERE id = 1",
        )

    first, *_ = shadow.follow()
    shadow.same()
    assert first.source.columns == {"id": "integer", "c": "text"}
    assert first.new_record == {"id": 1, "c": "c"}


def test_a_column_list_without_the_key(shadow: Shadow, needs_postgres: Needs) -> None:
    """Only inserts can be published so; the key that is not sent is none."""
    needs_postgres(15)
    shadow.execute("CREATE TABLE t (id int PRIMARY KEY, b text)")
    shadow.execute_on_copy("CREATE TABLE t (b text)")
    shadow.start("FOR TABLE t (b) WITH (publish = 'insert')")

    shadow.execute("INSERT INTO t VALUES (1, 'b')")

    (event,) = shadow.follow()
    shadow.same()
    assert event.source.key == ()
    assert event.key is None


def test_a_row_filter_turns_updates_into_what_they_are_to_its_rows(
    shadow: Shadow, needs_postgres: Needs
) -> None:
    """A row that comes to match is an insert, one that ceases to, a delete."""
    needs_postgres(15)
    shadow.define("CREATE TABLE t (id int, shown bool, a text, PRIMARY KEY (id, shown))")
    shadow.start("FOR TABLE t WHERE (shown)")

    shadow.execute(
        f"INSERT INTO t VALUES (1, true, '{TOASTED}'), (2, false, '{TOASTED}'), (3, false, 'x')",
        "UPDATE t SET a = 'y' WHERE id = 3",
        "UPDATE t SET shown = true WHERE id = 3",
        "UPDATE t SET id = 10 WHERE id = 1",
        "UPDATE t SET shown = false WHERE id = 10",
        "DELETE FROM t WHERE id = 2",
    )

    events = shadow.follow()
    assert [event.type for event in events] == ["insert", "insert", "update", "delete"]
    assert shadow.copy.execute("SELECT * FROM t") == [(3, True, "y")]
    assert shadow.source.execute("SELECT * FROM t WHERE shown") == [(3, True, "y")]


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_a_row_that_comes_to_match_has_what_postgres_sends(
    shadow: Shadow, needs_postgres: Needs, identity: str
) -> None:
    """A TOASTed value that the update left alone is known to FULL only; it is absent from the insert, never None."""
    needs_postgres(15)
    shadow.define(
        "CREATE TABLE t (id int, shown bool, a text, PRIMARY KEY (id, shown))",
        f"ALTER TABLE t REPLICA IDENTITY {identity}",
    )
    shadow.start("FOR TABLE t WHERE (shown)")

    shadow.execute(f"INSERT INTO t VALUES (1, false, '{TOASTED}')", "UPDATE t SET shown = true")

    (event,) = shadow.follow()
    assert event.type == "insert"
    assert event.new_record is not None
    assert event.new_record.get("a", "absent") == (TOASTED if identity == "FULL" else "absent")


def test_several_publications_of_a_table(shadow: Shadow, needs_postgres: Needs) -> None:
    """Row filters are joined by OR; different column lists are an error of Postgres', and of ours."""
    needs_postgres(15)
    shadow.define("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
    shadow.execute("CREATE PUBLICATION others FOR TABLE t WHERE (id < 5)")
    shadow.start("FOR TABLE t WHERE (id > 10)", publications=["shadow", "others"])
    shadow.execute("INSERT INTO t SELECT g, 'a', 'b' FROM generate_series(1, 15) g")

    assert len(shadow.follow()) == 9

    shadow.execute("ALTER PUBLICATION others SET TABLE t (id, a)", "INSERT INTO t VALUES (100, 'a', 'b')")
    with pytest.raises(SetupError, match="different column lists"):
        shadow.read()


def test_published_generated_columns(shadow: Shadow, needs_postgres: Needs) -> None:
    needs_postgres(18)
    shadow.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a int, twice numeric GENERATED ALWAYS AS (a * 2.0) STORED)",
        "CREATE TABLE f (a int, twice int GENERATED ALWAYS AS (a * 2) STORED)",
        "ALTER TABLE f REPLICA IDENTITY FULL",
    )
    shadow.execute_on_copy(
        "CREATE TABLE t (id int PRIMARY KEY, a int, twice numeric)", "CREATE TABLE f (a int, twice int)"
    )
    shadow.start("FOR TABLE t, f WITH (publish_generated_columns = stored)")

    shadow.execute(
        "INSERT INTO t VALUES (1, 1), (2, NULL)",
        "UPDATE t SET a = 5 WHERE id = 1",
        "INSERT INTO f VALUES (1), (2)",
        "UPDATE f SET a = 7 WHERE a = 1",
        "DELETE FROM f WHERE a = 2",
    )

    first, *_, updated, _ = shadow.follow()
    shadow.same()
    assert first.source.columns == {"id": "integer", "a": "integer", "twice": "numeric"}
    assert updated.changes is not None
    assert {name: tuple(change) for name, change in updated.changes.items()} == {
        "a": (7, 1),
        "twice": (14, 2),
    }


PARTITIONED = (
    "CREATE TABLE p (id int, at date, a text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
    "CREATE TABLE p_old PARTITION OF p FOR VALUES FROM (MINVALUE) TO ('2024-01-01')",
    # Other columns in another order, and one that is gone.
    "CREATE TABLE p_new (gone int, a text, at date NOT NULL, id int NOT NULL, PRIMARY KEY (id, at))",
    "ALTER TABLE p_new DROP gone",
    "ALTER TABLE p ATTACH PARTITION p_new FOR VALUES FROM ('2024-01-01') TO (MAXVALUE)",
)
CHANGES = (
    f"INSERT INTO p VALUES (1, '2023-01-01', 'a'), (2, '2024-01-01', '{TOASTED}'), (3, '2025-01-01', NULL)",
    "UPDATE p SET a = 'b' WHERE id = 1",
    "UPDATE p SET at = '2025-05-05' WHERE id = 2",
    # From one partition to the other: a delete and an insert.
    "UPDATE p SET at = '2024-06-06' WHERE id = 1",
    "DELETE FROM p WHERE id = 3",
)


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_partitions_by_themselves(shadow: Shadow, identity: str) -> None:
    shadow.define(
        *PARTITIONED, *(f"ALTER TABLE {name} REPLICA IDENTITY {identity}" for name in ("p_old", "p_new"))
    )
    shadow.start()

    shadow.execute(*CHANGES)

    events = shadow.follow()
    shadow.same()
    assert {event.name for event in events} == {"p_old", "p_new"}


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_partitions_as_one_table(shadow: Shadow, identity: str) -> None:
    shadow.define(
        *PARTITIONED, *(f"ALTER TABLE {name} REPLICA IDENTITY {identity}" for name in ("p", "p_old", "p_new"))
    )
    shadow.start("FOR TABLE p WITH (publish_via_partition_root)")

    shadow.execute(*CHANGES)
    events = shadow.follow()
    shadow.same()
    assert {event.name for event in events} == {"p"}
    assert list(events[1].source.columns) == ["id", "at", "a"]
    assert any(event.changes is not None for event in events) == (identity == "FULL")

    shadow.execute("TRUNCATE p")
    (event,) = shadow.follow()
    shadow.same()
    assert (event.name, event.type) == ("p", "truncate")


@pytest.mark.parametrize("full", ["p", "p_new"])
def test_partitions_of_other_identities_than_their_table(shadow: Shadow, full: str) -> None:
    """Postgres sends a partition's old row, made by its own identity, under the name of its table's identity.

    With FULL for the table alone (it is not handed down) a key would pass for a whole old row.
    """
    shadow.define(*PARTITIONED, f"ALTER TABLE {full} REPLICA IDENTITY FULL")
    shadow.start("FOR TABLE p WITH (publish_via_partition_root)")

    shadow.execute(*CHANGES)

    events = shadow.follow()
    shadow.same()
    moved = events[4]
    assert moved.type == "update"
    assert moved.new_record is not None
    assert moved.new_record.get("a", TOASTED) == TOASTED
    assert moved.changes is None
    assert moved.old_key is not None
    for event in events:
        if event.old_record is not None:
            assert event.old_record.keys() == {"id", "at"}


_ROWS = (
    "INSERT INTO p VALUES (1, 'b', 'c'), (2, 'd', 'e')",
    "UPDATE p SET c = 'f', b = 'g' WHERE a = 1",
    "DELETE FROM p WHERE a = 2",
)


@pytest.mark.parametrize("key", [True, False], ids=["primary key", "no key"])
@pytest.mark.parametrize("fate", ["FULL", "detached", "dropped", "all dropped"])
def test_a_partition_that_had_another_identity_when_its_rows_were_written(
    shadow: Shadow, key: bool, fate: str
) -> None:
    """What it did not send is unknown, whatever the catalog says of it by now; never NULL."""
    shadow.execute(
        "CREATE TABLE p (a int NOT NULL, b text NOT NULL, c text) PARTITION BY RANGE (a)",
        "CREATE TABLE q PARTITION OF p FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE q2 PARTITION OF p FOR VALUES FROM (100) TO (200)",
        *(["ALTER TABLE p ADD PRIMARY KEY (a)"] if key else []),
        "CREATE UNIQUE INDEX qb ON q (b)",
        "ALTER TABLE p REPLICA IDENTITY FULL",
        "ALTER TABLE q2 REPLICA IDENTITY FULL",
        "ALTER TABLE q REPLICA IDENTITY USING INDEX qb",
    )
    shadow.start("FOR TABLE p WITH (publish_via_partition_root)")

    shadow.execute(*_ROWS)
    shadow.execute(
        "INSERT INTO p VALUES (101, 'b', NULL)",
        "UPDATE p SET c = 'x' WHERE a = 101",
        "DELETE FROM p WHERE a = 101",
    )
    shadow.execute(
        *{
            "FULL": [
                "ALTER TABLE q REPLICA IDENTITY FULL",
                "INSERT INTO p VALUES (3, 'h', NULL)",
                "DELETE FROM p WHERE a = 3",
            ],
            "detached": ["ALTER TABLE p DETACH PARTITION q"],
            "dropped": ["DROP TABLE q"],
            "all dropped": ["DROP TABLE p"],
        }[fate]
    )

    events = shadow.read()
    _, _, updated, deleted, _, _, other, *later = events
    assert updated.changes is None
    assert updated.new_record == {"a": 1, "b": "g", "c": "f"}
    assert deleted.old_record == {"b": "d"}
    assert other.old_record == {"a": 101, "b": "b", "c": "x"}
    assert [event.old_record for event in later if event.type == "delete"] == (
        [{"a": 3, "b": "h", "c": None}] if fate == "FULL" else []
    )


def test_old_rows_of_full_partitions_are_whole(shadow: Shadow) -> None:
    """NULLs are NULLs, in a backlog too, and whatever comes and goes meanwhile."""
    shadow.execute(
        "CREATE TABLE p (a int PRIMARY KEY, b text, c text) PARTITION BY RANGE (a)",
        "CREATE TABLE q PARTITION OF p FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE o (a int PRIMARY KEY, b text, c text)",
        *(f"ALTER TABLE {name} REPLICA IDENTITY FULL" for name in "pq"),
    )
    shadow.start("FOR TABLE p, o WITH (publish_via_partition_root)")

    shadow.execute(
        "INSERT INTO p VALUES (1, NULL, NULL)",
        "INSERT INTO o VALUES (1, NULL, NULL)",
        "TRUNCATE p, o",
        "INSERT INTO p VALUES (1, NULL, NULL)",
        "UPDATE p SET b = 'x'",
        "UPDATE p SET b = NULL",
        "CREATE TABLE q2 PARTITION OF p FOR VALUES FROM (100) TO (200)",
        "ALTER TABLE q2 REPLICA IDENTITY FULL",
        "UPDATE p SET a = 100",
        "DELETE FROM p",
    )

    updates = [event for event in shadow.read() if event.type in ("update", "delete")]
    assert [event.changes for event in updates[:2]] == [{"b": ("x", None)}, {"b": (None, "x")}]
    assert [event.old_record for event in updates[2:]] == [
        {"a": 1, "b": None, "c": None}, {"a": 100, "b": None, "c": None},
    ]  # fmt: skip


def test_a_full_table_that_is_gone_and_was_published_via_its_root(shadow: Shadow) -> None:
    """It had no partitions: the stream would have described them."""
    shadow.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "CREATE TABLE u (id int PRIMARY KEY)",
        "ALTER TABLE t REPLICA IDENTITY FULL",
    )
    shadow.start("FOR TABLE t, u WITH (publish_via_partition_root)")

    shadow.execute(
        "BEGIN; INSERT INTO t VALUES (1, NULL); INSERT INTO u VALUES (1); COMMIT",
        "UPDATE t SET a = 'x'",
        "DELETE FROM t",
        "TRUNCATE t, u",
        "INSERT INTO t VALUES (2, NULL)",
        "UPDATE t SET a = 'y'",
        "DROP TABLE t",
    )

    events = shadow.read()
    assert events[2].changes == {"a": ("x", None)}
    assert events[3].old_record == {"id": 1, "a": "x"}
    assert events[-1].changes == {"a": ("y", None)}


def test_a_value_that_was_not_sent_says_how_to_have_it(shadow: Shadow) -> None:
    """In batch handlers (the producer's event) and in workers alike."""
    shadow.execute(
        'CREATE SCHEMA "A"',
        'CREATE TABLE "A".t (id int PRIMARY KEY, body text, title text)',
        f"INSERT INTO \"A\".t VALUES (1, '{TOASTED}', 'x')",
    )
    produced: list[Event] = []
    shadow.start()
    shadow.execute('UPDATE "A".t SET title = NULL', 'UPDATE "A".t SET id = 2', 'DELETE FROM "A".t')
    updated, moved, deleted = shadow.read(produced)

    for event in (updated, produced[0]):
        assert event.new_record["title"] is None
        with pytest.raises(
            KeyError, match="'body' is not in this record, because Postgres did not send"
        ) as refused:
            _ = event.new_record["body"]
        assert str(refused.value).endswith(
            '\n  fix: ALTER TABLE "A".t REPLICA IDENTITY FULL; -- and the same for its partitions, if it has any'
        )
        assert pickle.loads(pickle.dumps(refused.value)).args == refused.value.args
        assert event.new_record.get("body", "absent") == "absent"
        assert "body" not in event.new_record
        with pytest.raises(KeyError, match=r"^'bodi'$"):
            _ = event.new_record["bodi"]
    for event in (moved, produced[1]):
        assert event.old_key is not None
        with pytest.raises(KeyError, match="REPLICA IDENTITY FULL"):
            _ = event.old_key["title"]
    for event in (deleted, produced[2]):
        with pytest.raises(KeyError, match="REPLICA IDENTITY FULL"):
            _ = event.old_record["title"]
