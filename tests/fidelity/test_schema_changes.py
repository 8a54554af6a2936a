"""Schema changes amid a backlog: events before them have the old shape, events after them the new one (promise 7).

Everything here is read after all of it was done, so that the catalog is newer than the WAL, and once more as it is
done; the copy takes each change of the schema where it stood in the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from tests.fidelity.shadow import Shadow
from walex_celery import Event

#: Reads what was done: at once for those who follow live, at the end for those with a backlog.
Steps = Callable[..., list[Event]]


@pytest.fixture(params=["live", "backlog"])
def steps(request: pytest.FixtureRequest, shadow: Shadow) -> Steps:
    """Run statements on the source, a tuple of them on both; DDL reaches the copy in its place of the stream."""

    def run(*statements: str | tuple[str]) -> list[Event]:
        shadow.start()
        replayed: list[Event] = []
        done: list[str | tuple[str]] = []
        for statement in statements:
            text = statement if isinstance(statement, str) else statement[0]
            shadow.execute(text)
            if not isinstance(statement, str):
                # So that its place is known when the stream is read.
                shadow.execute("SELECT pg_logical_emit_message(true, 'ddl', '')")
                done.append(statement)
            if request.param == "live":
                replayed += replay(shadow.read(), done)
        return replayed + replay(shadow.read(), done)

    def replay(events: list[Event], ddl: list[Any]) -> list[Event]:
        for event in events:
            if event.type == "message":
                shadow.execute_on_copy(ddl.pop(0)[0])
            else:
                shadow.apply(event)
        return [event for event in events if event.type != "message"]

    return run


def records(events: list[Event]) -> list[Any]:
    return [dict(event.new_record) if event.new_record is not None else None for event in events]


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_columns_come_go_and_change(shadow: Shadow, steps: Steps, identity: str) -> None:
    shadow.define(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b text)", f"ALTER TABLE t REPLICA IDENTITY {identity}"
    )

    events = steps(
        "INSERT INTO t VALUES (1, 1, 'b')",
        ("ALTER TABLE t ADD c numeric DEFAULT 1.5",),
        "INSERT INTO t VALUES (2, 2, 'b', 2)",
        "UPDATE t SET a = 7 WHERE id = 1",
        ("ALTER TABLE t RENAME b TO bb",),
        "UPDATE t SET bb = 'new'",
        ("ALTER TABLE t ALTER a TYPE text USING 'was ' || a",),
        "UPDATE t SET a = a || '!'",
        ("ALTER TABLE t DROP bb",),
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO t VALUES (3, 'x', 3)",
        ("ALTER TABLE t ADD bb text",),
        "UPDATE t SET bb = 'again'",
    )

    shadow.same()
    assert records(events) == [
        {"id": 1, "a": 1, "b": "b"},
        {"id": 2, "a": 2, "b": "b", "c": 2},
        {"id": 1, "a": 7, "b": "b", "c": 1.5},
        *({"id": 2, "a": 2, "bb": "new", "c": 2}, {"id": 1, "a": 7, "bb": "new", "c": 1.5}),
        *({"id": 2, "a": "was 2!", "bb": "new", "c": 2}, {"id": 1, "a": "was 7!", "bb": "new", "c": 1.5}),
        None,
        {"id": 3, "a": "x", "c": 3},
        *({"id": 2, "a": "was 2!", "c": 2, "bb": "again"}, {"id": 3, "a": "x", "c": 3, "bb": "again"}),
    ]


def test_a_change_within_a_transaction(shadow: Shadow) -> None:
    shadow.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    shadow.start()

    shadow.execute(
        "BEGIN; INSERT INTO t VALUES (1, 1); ALTER TABLE t ADD b int; INSERT INTO t VALUES (2, 2, 2);"
        " ALTER TABLE t DROP a; INSERT INTO t VALUES (3, 3); ALTER TABLE t ADD a int; COMMIT"
    )

    assert records(shadow.read()) == [{"id": 1, "a": 1}, {"id": 2, "a": 2, "b": 2}, {"id": 3, "b": 3}]


def test_a_key_that_moves_to_other_columns(shadow: Shadow, steps: Steps) -> None:
    shadow.define("CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL)")

    events = steps(
        "INSERT INTO t VALUES (1, 2)",
        ("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (b)",),
        "UPDATE t SET a = 5",
        ("ALTER TABLE t RENAME b TO c",),
        "UPDATE t SET c = 6",
        ("ALTER TABLE t REPLICA IDENTITY FULL",),
        "UPDATE t SET a = 7",
        "DELETE FROM t",
    )

    shadow.same()
    assert [event.key for event in events[:4]] == [{"a": 1}, {"b": 2}, {"c": 6}, {"c": 6}]
    assert events[2].old_key == {"c": 2}
    assert events[3].changes == {"a": (7, 5)}


def test_a_moved_key_of_a_full_table_that_is_read_later(shadow: Shadow) -> None:
    """The stream does not tell it: it is the primary key of now, if the row has it."""
    shadow.execute(
        "CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL)",
        "CREATE TABLE u (a int PRIMARY KEY)",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "ALTER TABLE u REPLICA IDENTITY FULL",
    )
    shadow.start()

    shadow.execute(
        "INSERT INTO t VALUES (1, 2)",
        "INSERT INTO u VALUES (1)",
        "UPDATE t SET a = 5",
        "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (b)",
        "ALTER TABLE u DROP CONSTRAINT u_pkey, ADD c int GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "INSERT INTO u (a) VALUES (2)",
    )

    events = shadow.read()
    assert [event.key for event in events] == [{"b": 2}, None, {"b": 2}, {"c": 2}]
    assert events[2].old_key is None


def test_tables_renamed_dropped_and_made_again(shadow: Shadow, steps: Steps) -> None:
    shadow.define("CREATE TABLE t (id int PRIMARY KEY, a text)", "CREATE SCHEMA other")

    events = steps(
        "INSERT INTO t VALUES (1, 'one')",
        ("ALTER TABLE t RENAME TO u",),
        "UPDATE u SET a = 'two'",
        ("CREATE TABLE t (x numeric PRIMARY KEY)",),
        "INSERT INTO t VALUES (1.10)",
        ("ALTER TABLE u SET SCHEMA other",),
        "INSERT INTO other.u VALUES (2, 'three')",
        ("DROP TABLE t",),
        ("CREATE TABLE t (x text, y date PRIMARY KEY)",),
        "INSERT INTO t VALUES ('y', '2024-01-01')",
        "UPDATE t SET x = 'z'",
        ("DROP TABLE other.u",),
    )

    shadow.same()
    assert [(event.source.schema, event.name) for event in events] == [
        *(("public", "t"), ("public", "u"), ("public", "t"), ("other", "u"), ("public", "t"), ("public", "t"))
    ]
    assert [event.key for event in events] == [
        *({"id": 1}, {"id": 1}, {"x": Decimal("1.10")}, {"id": 2}),
        *({"y": date(2024, 1, 1)}, {"y": date(2024, 1, 1)}),
    ]


def test_a_full_table_that_is_gone(shadow: Shadow, steps: Steps) -> None:
    """Its primary key is in the catalog alone: whoever reads its rows later has no key, but has the rows."""
    shadow.define("CREATE TABLE t (id int PRIMARY KEY, a text)", "ALTER TABLE t REPLICA IDENTITY FULL")

    events = steps(
        "INSERT INTO t VALUES (1, 'a')", "UPDATE t SET a = NULL", "DELETE FROM t", ("DROP TABLE t",)
    )

    assert events[1].changes == {"a": (None, "a")}
    assert events[2].old_record == {"id": 1, "a": None}
    assert {event.source.key for event in events} <= {("id",), ()}


def test_tables_added_to_the_publication(shadow: Shadow) -> None:
    shadow.define("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY, a text)")
    shadow.execute("CREATE PUBLICATION shadow FOR TABLE t")
    shadow.start(publish=None)
    shadow.execute(
        "INSERT INTO t VALUES (1)",
        "INSERT INTO u VALUES (1, 'before')",
        "ALTER PUBLICATION shadow ADD TABLE u",
        "INSERT INTO u VALUES (2, 'after')",
        "ALTER PUBLICATION shadow DROP TABLE t",
        "INSERT INTO t VALUES (2)",
    )

    events = shadow.follow()

    assert [(event.name, event.key) for event in events] == [("t", {"id": 1}), ("u", {"id": 2})]


def test_an_enum_that_changes(shadow: Shadow, steps: Steps) -> None:
    shadow.define(
        "CREATE TYPE mood AS ENUM ('sad', 'ok')", "CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[])"
    )

    events = steps(
        "INSERT INTO t VALUES (1, 'sad', '{ok}')",
        ("ALTER TYPE mood ADD VALUE 'glad, \"so\"'",),
        "INSERT INTO t VALUES (2, 'glad, \"so\"', ARRAY['glad, \"so\"'::mood, NULL])",
        ("ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",),
        "UPDATE t SET m = 'fine'",
        "INSERT INTO t VALUES (3, 'sad', '{fine}')",
    )

    shadow.same()
    assert records(events) == [
        {"id": 1, "m": "sad", "ms": ["ok"]},
        {"id": 2, "m": 'glad, "so"', "ms": ['glad, "so"', None]},
        *({"id": 1, "m": "fine", "ms": ["fine"]}, {"id": 2, "m": "fine", "ms": ['glad, "so"', None]}),
        {"id": 3, "m": "sad", "ms": ["fine"]},
    ]


def test_a_type_that_is_renamed(shadow: Shadow) -> None:
    """Its name may be that of now, its values are what they were."""
    shadow.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')", "CREATE TABLE t (m mood, ms mood[])")
    shadow.start()

    shadow.execute("INSERT INTO t VALUES ('sad', '{ok}')", "ALTER TYPE mood RENAME TO feeling")

    (event,) = shadow.read()
    assert event.new_record == {"m": "sad", "ms": ["ok"]}
    assert event.source.columns["m"] in ("public.mood", "public.feeling")


def test_types_that_are_gone(shadow: Shadow) -> None:
    """Their values stay Postgres' own text, but for domains, whose base type the stream tells."""
    shadow.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        'CREATE TYPE "Pair[]" AS (a int, b text)',
        "CREATE DOMAIN cents AS int",
        "CREATE DOMAIN grid AS int[]",
        "CREATE TYPE span AS RANGE (subtype = int)",
        'CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[], p "Pair[]", ps "Pair[]"[], c cents, g grid, s span)',
    )
    shadow.start()
    shadow.execute(
        "INSERT INTO t VALUES (1, 'ok', '{sad,ok}', '(1,x)', '{\"(2,y)\"}', 5, '{6}', '[1,2)')",
        "DROP TABLE t",
        'DROP TYPE mood; DROP TYPE "Pair[]"; DROP DOMAIN cents; DROP DOMAIN grid; DROP TYPE span',
    )

    (event,) = shadow.read()

    assert event.new_record == {
        "id": 1, "m": "ok", "ms": "{sad,ok}", "p": "(1,x)", "ps": "{\"(2,y)\"}", "c": 5, "g": [6], "s": "[1,2)",
    }  # fmt: skip
    assert event.source.columns["m"] == "public.mood"
    assert event.source.columns["p"] == 'public."Pair[]"'


@pytest.mark.parametrize(
    ("change", "value", "after"),
    [
        ("ADD ATTRIBUTE c int", "(2,y,3)", {"a": 2, "b": "y", "c": 3}),
        ("DROP ATTRIBUTE a", "(y)", {"b": "y"}),
        ("RENAME ATTRIBUTE a TO z", "(2,y)", {"z": 2, "b": "y"}),
        ("DROP ATTRIBUTE a, ADD ATTRIBUTE c date", "(y,2024-01-01)", {"b": "y", "c": date(2024, 1, 1)}),
    ],
)
@pytest.mark.parametrize("live", [True, False])
def test_a_composite_that_changes(
    shadow: Shadow, change: str, value: str, after: dict[str, Any], live: bool
) -> None:
    """The stream tells nothing of it: what was written before it was seen stays text for who reads it afterwards."""
    shadow.execute(
        "CREATE TYPE pair AS (a int, b text)",
        "CREATE DOMAIN couple AS pair",
        "CREATE TYPE outer_pair AS (inner_pair couple)",
        "CREATE TABLE t (id int PRIMARY KEY, p pair, ps pair[], o outer_pair)",
        "CREATE TABLE u (id int PRIMARY KEY)",
    )
    shadow.start()
    nested = value.replace('"', '""')

    def row(number: int) -> str:
        return f"""INSERT INTO t VALUES ({number}, '{value}', '{{"{nested}"}}', '("{nested}")')"""

    shadow.execute(
        "INSERT INTO t VALUES (1, '(1,x)', '{\"(1,x)\"}', '(\"(1,x)\")')", "INSERT INTO u VALUES (1)"
    )
    events = shadow.read() if live else []
    shadow.execute(f"ALTER TYPE pair {change}")
    shadow.execute(row(2))
    events += shadow.read()
    shadow.execute(row(3), "UPDATE t SET id = 4 WHERE id = 3", "DELETE FROM t", "TRUNCATE t")
    shadow.execute("INSERT INTO u VALUES (2)")
    events += shadow.read()

    before: Any = {"a": 1, "b": "x"} if live else "(1,x)"
    texts = before if live else '("(1,x)")'
    first, _, uncertain, *rows = records(events)
    assert first == {"id": 1, "p": before, "ps": [before], "o": {"inner_pair": before} if live else texts}
    assert uncertain == {"id": 2, "p": value, "ps": [value], "o": f'("{value}")'}
    assert rows[:2] == [
        {"id": number, "p": after, "ps": [after], "o": {"inner_pair": after}} for number in (3, 4)
    ]
    assert [event.type for event in events[5:]] == ["delete", "delete", "delete", "truncate", "insert"]


def test_a_composite_that_changes_while_rows_of_it_come(shadow: Shadow) -> None:
    """Each reading sees some transactions from before, some from after it; none gets the other's fields."""
    shadow.execute("CREATE TYPE pair AS (a int, b text)", "CREATE TABLE t (id int PRIMARY KEY, p pair)")
    shadow.start()
    found: list[Any] = []

    for number in range(10):
        shadow.execute(f"INSERT INTO t VALUES ({3 * number}, '({number},x)')")
        if number % 3:
            found += records(shadow.read())
        column = "ab"[number % 2]
        shadow.execute(
            f"ALTER TYPE pair RENAME ATTRIBUTE {column} TO z",
            f"ALTER TYPE pair RENAME ATTRIBUTE z TO {column}",
            f"ALTER TYPE pair ADD ATTRIBUTE c{number} int",
            f"ALTER TYPE pair DROP ATTRIBUTE c{number}",
        )
        shadow.execute(f"INSERT INTO t VALUES ({3 * number + 1}, '({number},y)')")
        found += records(shadow.read())
        shadow.execute(f"INSERT INTO t VALUES ({3 * number + 2}, '({number},z)')")
        found += records(shadow.read())

    assert [record["id"] for record in found] == list(range(30))
    for record in found:
        number, which = divmod(record["id"], 3)
        assert record["p"] in ({"a": number, "b": "xyz"[which]}, f"({number},{'xyz'[which]})")
    assert all(isinstance(record["p"], dict) for record in found if record["id"] % 3 == 2)


def test_a_composite_altered_within_a_transaction(shadow: Shadow) -> None:
    """Nobody can tell its rows of before the change from those of after it: they stay text."""
    shadow.execute("CREATE TYPE pair AS (a int, b text)", "CREATE TABLE t (id int PRIMARY KEY, p pair)")
    shadow.start()

    shadow.execute(
        "BEGIN; INSERT INTO t VALUES (1, '(1,x)'); ALTER TYPE pair ADD ATTRIBUTE c int;"
        " SAVEPOINT s; ALTER TYPE pair DROP ATTRIBUTE a; INSERT INTO t VALUES (2, '(y,3)'); COMMIT",
    )
    found = records(shadow.read())
    shadow.execute("INSERT INTO t VALUES (3, '(z,4)')")
    found += records(shadow.read())

    assert [record["p"] for record in found] == ["(1,x)", "(y,3)", {"b": "z", "c": 4}]


_SWAP = (
    "ALTER TYPE {0} RENAME ATTRIBUTE z TO tmp",
    "ALTER TYPE {0} RENAME ATTRIBUTE m TO z",
    "ALTER TYPE {0} RENAME ATTRIBUTE tmp TO m",
)
_SWAP_COLUMNS = tuple(
    statement.replace("TYPE", "TABLE").replace("ATTRIBUTE", "COLUMN") for statement in _SWAP
)
_REPLACED = ("ALTER TYPE {0} DROP ATTRIBUTE z, ADD ATTRIBUTE n text",)


@pytest.mark.parametrize("commits", ["before the alteration", "after the alteration"])
@pytest.mark.parametrize("followed", [False, True], ids=["backlog", "followed"])
@pytest.mark.parametrize(
    ("alteration", "in_subtransaction"),
    [(_SWAP, False), (_SWAP, True), (_SWAP_COLUMNS, False), (_REPLACED, False)],
)
def test_a_composite_altered_while_another_session_writes(
    shadow: Shadow, alteration: tuple[str, ...], in_subtransaction: bool, followed: bool, commits: str
) -> None:
    """A later id is no sign of a later commit: the writer's rows are those of the type before it was altered."""
    shadow.execute(
        f"CREATE {'TABLE c' if alteration is _SWAP_COLUMNS else 'TYPE c AS'} (z text, m text)",
        "CREATE DOMAIN cd AS c",
        "CREATE TYPE co AS (inner_c cd)",
        "CREATE TABLE t (id serial PRIMARY KEY, v c, vs c[], o co)",
    )
    shadow.start()
    insert = "INSERT INTO t (v, vs, o) VALUES ('(z,m)', '{\"(z,m)\"}', '(\"(z,m)\")')"
    altering, writing, long_running = (shadow.source.connect() for _ in range(3))
    with altering.cursor() as alter, writing.cursor() as write, long_running.cursor() as run:
        # It keeps the oldest running id low, as on a busy server.
        run.execute("BEGIN; SELECT pg_current_xact_id()")
        write.execute(insert)
        found = shadow.read() if followed else []
        alter.execute("BEGIN")
        alter.execute("SAVEPOINT s" if in_subtransaction else "SELECT pg_current_xact_id()")
        for statement in alteration:
            alter.execute(statement.format("c"))
        write.execute(f"BEGIN; {insert}")
        if commits == "before the alteration":
            write.execute("COMMIT")
            alter.execute("COMMIT")
        else:
            alter.execute("COMMIT")
            found += shadow.read()
            write.execute("COMMIT")
    found += shadow.read()
    for session in (altering, writing, long_running):
        session.close()

    right = {"z": "z", "m": "m"}
    assert len(found) == 2
    for record in records(found):
        assert record["v"] in (right, "(z,m)")
        assert record["vs"] in ([right], ["(z,m)"], '{"(z,m)"}')
        assert record["o"] in ({"inner_c": right}, {"inner_c": "(z,m)"}, '("(z,m)")')

    shadow.execute("INSERT INTO t (v) VALUES ('(1,2)')")
    (event,) = shadow.read()
    names = ("m", "n") if alteration is _REPLACED else ("m", "z")
    assert event.new_record["v"] == dict(zip(names, "12", strict=True))


def test_a_composite_that_was_altered_before_the_slot_was_left(shadow: Shadow) -> None:
    """Each new reading begins with what Postgres knows of the alterations, so that a backlog has its values."""
    shadow.execute(
        "CREATE TYPE c AS (z text, m text)",
        *(statement.format("c") for statement in _SWAP),
        "CREATE TABLE t (id int PRIMARY KEY, v c)",
    )
    shadow.start()

    shadow.execute("INSERT INTO t VALUES (1, '(1,2)')", "CREATE TYPE d AS (a int)", "CREATE TABLE u (v d)")
    shadow.execute("INSERT INTO u VALUES ('(1)')", "INSERT INTO t VALUES (2, '(3,4)')")

    assert [record["v"] for record in records(shadow.read())] == [
        {"m": "1", "z": "2"}, {"a": 1}, {"m": "3", "z": "4"},
    ]  # fmt: skip


def test_a_column_of_rows_of_another_table(shadow: Shadow) -> None:
    shadow.define("CREATE TABLE u (a int, b text)", "CREATE TABLE t (id int PRIMARY KEY, u u)")
    shadow.start()

    shadow.execute("INSERT INTO t VALUES (1, '(1,x)')", "UPDATE t SET u.b = NULL")

    events = shadow.follow()
    shadow.same()
    assert records(events) == [{"id": 1, "u": {"a": 1, "b": "x"}}, {"id": 1, "u": {"a": 1, "b": None}}]
