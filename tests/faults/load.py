"""A load of inserts, updates and deletes, which writes what it did in the same transactions.

So the totals are known exactly, whichever commit a crash of Postgres left in doubt: what stands in ``done`` was
committed, and nothing else was.
"""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from typing import Final, NamedTuple

import psycopg2
from psycopg2.extensions import connection, cursor

SCHEMA: Final = """
CREATE TABLE items (id int PRIMARY KEY, version int NOT NULL, note text);
CREATE SCHEMA sales;
CREATE TABLE sales.orders (id int PRIMARY KEY, version int NOT NULL, note text);
ALTER TABLE items REPLICA IDENTITY FULL;
ALTER TABLE sales.orders REPLICA IDENTITY FULL;
CREATE TABLE done (
    writer int, number int, ordinal int, tab text, type text, key int, version int,
    PRIMARY KEY (writer, number, ordinal)
);
CREATE PUBLICATION events FOR TABLE items, sales.orders;
"""
TABLES: Final = ("items", "sales.orders")
#: Versions of changes that are rolled back begin here: none of them may ever arrive.
ROLLED_BACK: Final = 1_000_000
_KEYS: Final = 40


class Change(NamedTuple):
    """One change of one row; no two are the same."""

    table: str
    type: str
    key: int
    version: int


class Writer(threading.Thread):
    """Changes rows of its own keys until stopped, whatever happens to the server.

    Args:
        dsn: of the database with :data:`SCHEMA`.
        number: of this writer; no two may have the same.
        seed: of the choice of changes.
        pause_seconds: between transactions, on average.
    """

    def __init__(self, dsn: str, number: int, seed: int, *, pause_seconds: float) -> None:
        super().__init__(name=f"writer {number}", daemon=True)
        self._dsn = dsn
        self._number = number
        self._random = random.Random(seed * 1000 + number)
        self._pause = pause_seconds
        self._stop_asked = threading.Event()
        self._transactions = 0
        #: Version, and whether the row is there, by table and key.
        self._rows: dict[tuple[str, int], tuple[int, bool]] = {}

    def stop(self) -> None:
        """End after the transaction in hand."""
        self._stop_asked.set()
        self.join(60)
        assert not self.is_alive(), f"{self.name} does not end"

    def run(self) -> None:
        while not self._stop_asked.is_set():
            with suppress(psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.errors.AdminShutdown):
                opened = psycopg2.connect(self._dsn, connect_timeout=5)
                try:
                    self._recall(opened)
                    while not self._stop_asked.wait(self._random.uniform(0, 2 * self._pause)):
                        self._transact(opened)
                finally:
                    opened.close()
            self._stop_asked.wait(0.1)

    def _recall(self, opened: connection) -> None:
        """Take from the database what was committed."""
        with opened.cursor() as cur:
            cur.execute(
                "SELECT DISTINCT ON (tab, key) tab, key, version, type <> 'delete' FROM done WHERE writer = %s"
                " ORDER BY tab, key, version DESC, (type = 'delete') DESC",
                (self._number,),
            )
            self._rows = {(tab, key): (version, there) for tab, key, version, there in cur.fetchall()}
            cur.execute("SELECT coalesce(max(number), 0) FROM done WHERE writer = %s", (self._number,))
            self._transactions = (cur.fetchone() or (0,))[0]
        opened.rollback()

    def _transact(self, opened: connection) -> None:
        chance = self._random
        size = chance.choice((1, 1, 1, 2, 3, 5, 10)) if chance.random() > 0.002 else 1200
        rows = dict(self._rows)
        with opened.cursor() as cur:
            if chance.random() < 0.05:
                self._spoil(cur)
                opened.rollback()
                return
            if chance.random() < 0.05:
                cur.execute("SAVEPOINT spoiled")
                self._spoil(cur)
                cur.execute("ROLLBACK TO spoiled")
            changes = [self._change(rows) for _ in range(size)]
            statements = [_statement(cur, change) for change in changes]
            done = [
                cur.mogrify(
                    "(%s,%s,%s,%s,%s,%s,%s)", (self._number, self._transactions + 1, ordinal, *change)
                )
                for ordinal, change in enumerate(changes)
            ]
            statements.append(b"INSERT INTO done VALUES " + b",".join(done))
            cur.execute(b";".join(statements))
        opened.commit()
        self._rows = rows
        self._transactions += 1

    def _change(self, rows: dict[tuple[str, int], tuple[int, bool]]) -> Change:
        table = self._random.choice(TABLES)
        key = self._number * 1000 + self._random.randrange(_KEYS)
        version, there = rows.get((table, key), (0, False))
        if there and self._random.random() < 0.25:
            rows[table, key] = (version, False)
            return Change(table, "delete", key, version)
        rows[table, key] = (version + 1, True)
        return Change(table, "update" if there else "insert", key, version + 1)

    def _spoil(self, cur: cursor) -> None:
        """Change what will be rolled back."""
        key = self._number * 1000 + 500
        cur.execute("INSERT INTO items VALUES (%s, %s, 'never'), (%s, %s, 'never')",
                    (key, ROLLED_BACK, key + 1, ROLLED_BACK))  # fmt: skip


def _statement(cur: cursor, change: Change) -> bytes:
    if change.type == "insert":
        return cur.mogrify(
            f"INSERT INTO {change.table} VALUES (%s, %s, repeat('x', %s %% 300))",
            (change.key, change.version, change.version * 7),
        )
    if change.type == "update":
        return cur.mogrify(
            f"UPDATE {change.table} SET version = %s WHERE id = %s", (change.version, change.key)
        )
    return cur.mogrify(f"DELETE FROM {change.table} WHERE id = %s", (change.key,))
