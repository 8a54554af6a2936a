"""Random tables, rows and changes: the copy is the same, whatever happens (promise 7).

``WALEX_TEST_EXAMPLES=5000`` makes the run longer; a failure prints the smallest history that shows it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.events.values.printer import texts
from tests.events.values.samples import SAMPLES
from tests.fidelity.shadow import Shadow
from tests.fidelity.statements import identifier, literal

EXAMPLES = int(os.environ.get("WALEX_TEST_EXAMPLES", "120"))

KINDS = """
CREATE TYPE kinds.mood AS ENUM ('sad', 'it''s "ok"', '', 'NULL', 'a,b');
CREATE DOMAIN kinds.cents AS numeric(20, 2);
CREATE TYPE kinds.pair AS (a int, "B c" text, at timestamptz);
CREATE TYPE kinds.nest AS (p kinds.pair, ps kinds.pair[], m kinds.mood, j jsonb);
CREATE TYPE kinds.span AS RANGE (subtype = text, collation = "C");
CREATE DOMAIN kinds.grid AS int[];
"""


def _quoted(text: str) -> str:
    return literal(text).decode()


# Of what Postgres keeps apart from the row (TOAST), when it is long and random.
_random_text = st.builds(
    lambda seed, size: _quoted(random.Random(seed).randbytes(size).hex()),
    st.integers(0, 9),
    st.sampled_from([5000, 1500, 1100, 10]),
)
_samples = [
    (name, st.sampled_from([f"({sql_literal})::{name}" for sql_literal, _ in cases]))
    for name, cases in SAMPLES.items()
    if name not in ("interval", "date", "timestamp", "timestamptz")
]
_values: list[tuple[str, st.SearchStrategy[str]]] = [
    *_samples,
    *((name, st.sampled_from([f"{text}::{name}" for text, _ in SAMPLES[name] if "infinity" not in text]))
      for name in ("interval", "date", "timestamp", "timestamptz")),
    ("text", texts.map(_quoted)),
    ("varchar(20)", texts.map(_quoted)),
    ("char(20)", texts.map(_quoted)),
    ("bit(5)", st.integers(0, 31).map("B'{:05b}'".format)),
    ("numeric", st.decimals(allow_nan=False, allow_infinity=False).map("'{}'".format)),
    ("float8", st.floats().map("'{}'".format)),
    ("float4", st.floats(width=32).map("'{}'".format)),
    ("text", _random_text),
    ("bytea", _random_text.map("decode({}, 'hex')".format)),
    ("jsonb", st.tuples(_random_text, texts.map(_quoted)).map("to_jsonb(ARRAY[{0[0]}, {0[1]}])".format)),
    ("json", texts.map(_quoted).map("to_json({}::text)".format)),
    ("json", st.sampled_from(["'null'", "' null'", "' {\"a\" : 1.10, \"a\":1}\n'"])),
    ("json", st.just("(repeat('[', 300) || repeat(']', 300))::json")),
    ("jsonb", st.sampled_from(["'null'", "'{\"__type__\": \"x\", \"__value__\": [null]}'"])),
    ("text[]", st.lists(texts.map(_quoted), max_size=3).map(lambda items: f"ARRAY[{', '.join(items)}]::text[]")),
    ("text[]", _random_text.map("ARRAY[[{0}, NULL], ['', {0}]]".format)),
    ("int[]", st.sampled_from(["'[0:1]={7,8}'", "'{}'", "'{{1,2},{NULL,4}}'"])),
    ("kinds.mood", st.sampled_from(["'sad'", "'it''s \"ok\"'", "''", "'NULL'", "'a,b'"])),
    ("kinds.mood[]", st.sampled_from(["ARRAY['a,b', '', NULL, 'NULL', 'it''s \"ok\"']::kinds.mood[]", "'{}'"])),
    ("kinds.cents", st.integers(-(10**17), 10**17).map(str)),
    ("kinds.grid", st.sampled_from(["'{1,NULL}'", "'{}'", "'{{1},{2}}'"])),
    ("kinds.pair", st.tuples(st.integers(-5, 5), texts.map(_quoted)).map("ROW({0[0]}, {0[1]}, '-infinity')".format)),
    ("kinds.pair[]", texts.map(_quoted).map("ARRAY[ROW(NULL, {}, now())::kinds.pair, NULL]".format)),
    ("kinds.nest", texts.map(_quoted).map(
        "ROW(ROW(1, {0}, NULL), ARRAY[ROW(2, {0}, 'epoch')::kinds.pair], 'a,b', to_jsonb({0}::text))".format)),
    ("kinds.span", st.tuples(texts, texts).map(
        lambda ends: "kinds.span({}, {}, '[]')".format(*map(_quoted, sorted(ends, key=str.encode))))),
]  # fmt: skip

_names = st.text(
    st.sampled_from("aA \"_%\\.'") | st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    min_size=1,
    max_size=63,
).map(lambda name: name.encode()[:63].decode(errors="ignore") or "x")


#: Keys that are there already, rows that no page holds, defaults that can not be, columns that were so not made.
_REFUSALS = (
    psycopg2.errors.UniqueViolation,
    psycopg2.errors.ProgramLimitExceeded,
    psycopg2.errors.UndefinedColumn,
    psycopg2.errors.FeatureNotSupported,
)


@dataclass
class Column:
    name: str
    type: str
    values: st.SearchStrategy[str]


@st.composite
def histories(draw: st.DrawFn) -> tuple[str, str, str, list[tuple[str, str]]]:
    """Identity, schema, table and what happens: statements, each with how it is meant."""
    identity = draw(st.sampled_from(["DEFAULT", "FULL", "FULL without a key", "INDEX", "NOTHING"]))
    schema, table = draw(_names), draw(_names)
    names = draw(st.lists(_names, min_size=2, max_size=7, unique=True))
    if schema.startswith("pg_") or schema in ("kinds", "public", "information_schema"):
        schema = "s" + schema
    keys = [Column(names[0], "int", st.integers(0, 4).map(str)), Column(names[1], "text", st.sampled_from(
        ["'a'", "'B'", _quoted("k" * 2000 + "'"), "''"]))]  # fmt: skip
    if identity in ("FULL without a key", "NOTHING"):
        keys = [Column(column.name, column.type, column.values | st.just("NULL")) for column in keys]
    others = [
        Column(name, *draw(st.sampled_from(_values) | st.just(("text", _random_text)))) for name in names[2:]
    ]
    columns = keys + others
    qualified = f"{identifier(schema).decode()}.{identifier(table).decode()}"

    def quoted(column: Column) -> str:
        return identifier(column.name).decode()

    definitions = [f"{quoted(column)} {column.type}" for column in columns]
    key = ", ".join(map(quoted, keys))
    if identity in ("DEFAULT", "FULL"):
        definitions.append(f"PRIMARY KEY ({key})")
    draw(st.randoms(use_true_random=False)).shuffle(definitions)
    create = [
        f"CREATE SCHEMA {identifier(schema).decode()}",
        f"CREATE TABLE {qualified} ({', '.join(definitions)})",
    ]
    if identity == "INDEX":
        create += [f"ALTER TABLE {qualified} ALTER {quoted(column)} SET NOT NULL" for column in keys]
        create += [
            f"CREATE UNIQUE INDEX by_key ON {qualified} ({key})",
            f"ALTER TABLE {qualified} REPLICA IDENTITY USING INDEX by_key",
        ]
    elif identity != "DEFAULT":
        create.append(f"ALTER TABLE {qualified} REPLICA IDENTITY {identity.split()[0]}")
    # A key of 2,000 bytes is TOASTed too, if it is kept out of line as it is.
    create.append(f"ALTER TABLE {qualified} ALTER {quoted(keys[1])} SET STORAGE EXTERNAL")

    # A row by its place, whatever is in it.
    row = st.integers(0, 2).map(
        lambda place: f"WHERE ctid = (SELECT ctid FROM {qualified} ORDER BY ctid OFFSET {place} LIMIT 1)"
    )

    def value_of(column: Column) -> str:
        value = draw(column.values | st.just("NULL")) if column in others else draw(column.values)
        return value

    history = [("define", statement) for statement in create]
    changes = ["insert"] if identity == "NOTHING" else ["insert", "update", "update", "key", "delete"]
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(
            st.sampled_from([*changes, *changes, "truncate", "begin", "commit", "add", "drop", "rename"])
        )
        if kind == "insert":
            into = ", ".join(map(quoted, columns))
            rows = [f"({', '.join(map(value_of, columns))})" for _ in range(draw(st.integers(2, 4)))]
            history += [("run", f"INSERT INTO {qualified} ({into}) VALUES {values}") for values in rows]
        elif kind in ("update", "key"):
            changed = (
                keys
                if kind == "key"
                else draw(st.lists(st.sampled_from(columns), min_size=1, max_size=2, unique_by=id))
            )
            setting = ", ".join(f"{quoted(column)} = {value_of(column)}" for column in changed)
            history.append(("run", f"UPDATE {qualified} SET {setting} {draw(row)}"))
        elif kind == "delete":
            history.append(("run", f"DELETE FROM {qualified} {draw(row)}"))
        elif kind == "truncate":
            history.append(("run", f"TRUNCATE {qualified}"))
        elif kind in ("begin", "commit"):
            history.append(("control", kind))
        elif kind == "add" and len(columns) < 9:
            new = Column(draw(_names), *draw(st.sampled_from(_values)))
            if new.name not in {column.name for column in columns}:
                default = (
                    f" DEFAULT {draw(new.values)}" if draw(st.booleans()) and "now()" not in new.type else ""
                )
                others.append(new)
                columns.append(new)
                history.append(("define", f"ALTER TABLE {qualified} ADD {quoted(new)} {new.type}{default}"))
        elif kind == "drop" and others:
            gone = others.pop(draw(st.integers(0, len(others) - 1)))
            columns.remove(gone)
            history.append(("define", f"ALTER TABLE {qualified} DROP {quoted(gone)}"))
        elif kind == "rename":
            column = draw(st.sampled_from(columns))
            name = draw(_names)
            if name not in {column.name for column in columns}:
                to = identifier(name).decode()
                history.append(("define", f"ALTER TABLE {qualified} RENAME {quoted(column)} TO {to}"))
                column.name = name
    return identity, schema, table, history


@pytest.fixture(scope="module")
def following(_shadow: Shadow) -> Iterator[Shadow]:
    _shadow.define("CREATE SCHEMA kinds", KINDS)
    _shadow.start()
    yield _shadow
    _shadow.reset()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(histories())
def test_whatever_happens(following: Shadow, history: tuple[str, str, str, list[tuple[str, str]]]) -> None:
    _, schema, table, steps = history
    shadow = following
    definitions: list[str] = []
    try:
        open_transaction = False
        for kind, statement in steps:
            if kind == "control":
                if (statement == "begin") is not open_transaction:
                    shadow.execute(statement)
                    open_transaction = statement == "begin"
                continue
            if open_transaction:
                shadow.execute("SAVEPOINT s")
            try:
                shadow.execute(statement)
            except _REFUSALS:
                if open_transaction:
                    shadow.execute("ROLLBACK TO s")
                continue
            if kind == "define":
                definitions.append(statement)
                shadow.execute("SELECT pg_logical_emit_message(true, 'ddl', '')")
        if open_transaction:
            shadow.execute("COMMIT")
        for event in shadow.read():
            if event.type == "message":
                shadow.execute_on_copy(definitions.pop(0))
            else:
                shadow.apply(event)
        shadow.same(table)
    finally:
        shadow.execute("ROLLBACK")
        for run in (shadow.execute, shadow.execute_on_copy):
            run(b"DROP SCHEMA IF EXISTS " + identifier(schema) + b" CASCADE")
        shadow.read()
