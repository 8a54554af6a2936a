"""The shapes of WAL that are drained: tables, and what fills them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Shape(msgspec.Struct, frozen=True):
    """One kind of load.

    Attributes:
        name: short, for options and results.
        title: for the report.
        events: how many at scale 1.
        table: whose changes are drained.
        column: what the batch handler that reads one column reads.
        unwatched: values that every row has: by them a filter drops all.
        schema: SQL that makes table and procedure ``fill(n)``, which commits n events.
        marker: SQL of one more event, a transaction of its own: its commit is the end of a drain.
        step: events come in multiples of this (a transaction's).
        smallest: least number of events of a drain, whatever the scale.
        script: of a pgbench transaction that commits ``step / CLIENTS`` events; it fills instead of the procedure,
            by CLIENTS clients at once: each transaction begins before others have ended.
    """

    name: str
    title: str
    events: int
    table: str
    column: str
    unwatched: Mapping[str, Any]
    schema: str
    marker: str
    step: int = 1
    smallest: int = 50
    script: str = ""


#: That fill an interleaved shape.
CLIENTS = 16


# The columns of the example's table: bigint, two texts, two booleans, numeric, int, jsonb, two timestamptz.
_USERS = """
CREATE TABLE users (
    id              bigserial PRIMARY KEY,
    name            text NOT NULL,
    email           text NOT NULL,
    event_subscribe boolean NOT NULL DEFAULT true,
    active          boolean NOT NULL DEFAULT true,
    balance         numeric(12, 2) NOT NULL DEFAULT 12.34,
    todos_count     integer NOT NULL DEFAULT 5,
    profile         jsonb NOT NULL DEFAULT '{"plan": "free", "tags": ["a", "b"]}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE users REPLICA IDENTITY FULL;
"""

_INSERT_USERS = """
INSERT INTO users (name, email)
SELECT 'User Number ' || g, 'user' || g || '@example.com' FROM generate_series(1, {rows}) AS g"""

_LOOP = """
CREATE PROCEDURE fill(n integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. n / {step} LOOP
        {body};
        COMMIT;
    END LOOP;
END $$;
"""

_ONE_USER = "INSERT INTO users (name, email) VALUES ('User Number 0', 'user0@example.com')"

_PRELOADED = 10_000


def _users(name: str, title: str, events: int, body: str, *, extra: str = "", step: int = 1) -> Shape:
    return Shape(
        name=name,
        title=title,
        events=events,
        table="users",
        column="id",
        unwatched={"event_subscribe": True},
        schema=_USERS + extra + _LOOP.format(step=step, body=body),
        marker=_ONE_USER,
        step=step,
        smallest=max(50, 2 * step),
    )


SINGLE = _users("single", "single-row inserts", 300_000, _INSERT_USERS.format(rows=1))

THOUSAND = _users(
    "thousand", "inserts, 1,000 rows a transaction", 300_000, _INSERT_USERS.format(rows=1000), step=1000
)

UPDATES = _users(
    "updates",
    "updates of one column, single rows",
    50_000,
    f"UPDATE users SET todos_count = todos_count + 1 WHERE id = 1 + i % {_PRELOADED}",
    extra=_INSERT_USERS.format(rows=_PRELOADED) + ";",
)

# As in pgbench's own transaction, three rows are updated and one is inserted; and one is deleted.
MIXED = _users(
    "mixed",
    "three updates, an insert and a delete a transaction",
    50_000,
    f"""
        UPDATE users SET balance = balance + 1 WHERE id = 1 + i % {_PRELOADED // 2};
        UPDATE users SET todos_count = todos_count + 1, updated_at = now()
            WHERE id = 1 + (i * 7) % {_PRELOADED // 2};
        UPDATE users SET name = name || '.' WHERE id = 1 + (i * 13) % {_PRELOADED // 2};
        {_ONE_USER};
        DELETE FROM users WHERE id = (SELECT nextval('doomed'))""",
    extra=_INSERT_USERS.format(rows=_PRELOADED)
    + f"; CREATE SEQUENCE doomed START {_PRELOADED // 2 + 1} CACHE 1000;",
    step=5,
)

NARROW = Shape(
    name="narrow",
    title="single-row inserts of two integers",
    events=50_000,
    table="narrow",
    column="a",
    unwatched={"b": 1},
    schema="CREATE TABLE narrow (a serial PRIMARY KEY, b integer NOT NULL DEFAULT 1);"
    + _LOOP.format(step=1, body="INSERT INTO narrow DEFAULT VALUES"),
    marker="INSERT INTO narrow DEFAULT VALUES",
)

_WIDE_COLUMNS = ", ".join(f"c{n} text NOT NULL DEFAULT '{n:078d}'" for n in range(1, 100))

WIDE = Shape(
    name="wide",
    title="single-row inserts of 100 columns, 8 kB",
    events=10_000,
    table="wide",
    column="id",
    unwatched={"c1": f"{1:078d}"},
    # Rows stay in the page: a hundred values out of line would measure something else.
    schema=f"CREATE TABLE wide (id bigserial PRIMARY KEY, {_WIDE_COLUMNS}) WITH (toast_tuple_target = 8160);"
    "ALTER TABLE wide REPLICA IDENTITY FULL;" + _LOOP.format(step=1, body="INSERT INTO wide DEFAULT VALUES"),
    marker="INSERT INTO wide DEFAULT VALUES",
)

GROWTH = msgspec.structs.replace(SINGLE, name="growth", title="a backlog ten times as long", events=400_000)

# Of the narrow table, because five million rows of the other take minutes to fill.
HUGE = msgspec.structs.replace(
    NARROW,
    name="huge",
    title="one transaction",
    events=5_000_000,
    schema="CREATE TABLE narrow (a serial PRIMARY KEY, b integer NOT NULL DEFAULT 1);"
    "CREATE PROCEDURE fill(n integer) LANGUAGE plpgsql AS $$ BEGIN"
    " INSERT INTO narrow (b) SELECT 1 FROM generate_series(1, n); END $$;",
)

INTERLEAVED = msgspec.structs.replace(
    SINGLE,
    name="interleaved",
    title=f"{CLIENTS} clients at once, four inserts a transaction",
    events=50_000,
    step=4 * CLIENTS,
    smallest=8 * CLIENTS,
    script="\n".join(("BEGIN;", *[f"{_ONE_USER};"] * 4, "END;")),
)

SHAPES = (SINGLE, THOUSAND, UPDATES, MIXED, INTERLEAVED, NARROW, WIDE)
