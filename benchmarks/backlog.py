"""A backlog of WAL, filled once and drained many times by copies of one slot."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count

import msgspec
from psycopg2.extensions import connection

from benchmarks.shapes import CLIENTS, Shape
from walex_celery.postgres.lsn import Lsn
from walex_celery.testing.servers import Postgres

PUBLICATION = "bench"

# Slot names are unique in a cluster, not in a database.
_slot_numbers = count(1)


class Backlog(msgspec.Struct, frozen=True):
    """A filled database.

    Attributes:
        shape: of the load.
        database: its name.
        end: a drain is complete once it has confirmed more than this.
        slots: by number of events: an unread slot that many events before the end.
    """

    shape: Shape
    database: str
    end: Lsn
    slots: Mapping[int, str]


@contextmanager
def filled(postgres: Postgres, shape: Shape, sizes: Iterable[int]) -> Iterator[Backlog]:
    """Fill a database of its own with max(*sizes*) events; dropped at the end, with its slots.

    Args:
        postgres: a running server.
        shape: what to write.
        sizes: numbers of events to be drained; each is rounded up to whole transactions, and one more event
            marks the end.
    """
    database = postgres.create_database()
    opened = postgres.connect(database)
    try:
        yield _fill(postgres, opened, database, shape, sizes)
    finally:
        opened.close()
        postgres.drop_database(database)


def rounded(shape: Shape, events: int) -> int:
    """*events* as :func:`filled` rounds it."""
    return -(-events // shape.step) * shape.step


def _fill(
    postgres: Postgres, opened: connection, database: str, shape: Shape, sizes: Iterable[int]
) -> Backlog:
    wanted = sorted({rounded(shape, size) for size in sizes}, reverse=True)
    slots = {}
    with opened.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        cursor.execute(shape.schema)
        cursor.execute(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {shape.table}")
        # A slot for fewer events is created later, so each drain ends at the end of the WAL, where everything read is
        # also confirmed.
        for size, next_size in zip(wanted, [*wanted[1:], 0], strict=True):
            slots[size + 1] = f"bench_{next(_slot_numbers)}"
            cursor.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slots[size + 1]])
            if shape.script:
                _fill_at_once(postgres, database, shape, size - next_size)
            else:
                cursor.execute("CALL fill(%s)", [size - next_size])
        cursor.execute("SELECT pg_current_wal_insert_lsn()")
        row = cursor.fetchone()
        assert row is not None
        cursor.execute(shape.marker)
        # Flushes the WAL, since only flushed WAL is sent, and keeps later writes out of the drains.
        cursor.execute("CHECKPOINT")
    return Backlog(shape, database, Lsn.parse(row[0]), slots)


def _fill_at_once(postgres: Postgres, database: str, shape: Shape, events: int) -> None:
    """Write *events* by many clients."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(shape.script)
        script.flush()
        subprocess.run(
            [
                str(postgres.bin_dir / "pgbench"),
                *("--host", "127.0.0.1", "--port", str(postgres.port), "--username", postgres.username),
                *("--no-vacuum", "--protocol", "prepared", "--client", str(CLIENTS), "--file", script.name),
                *("--transactions", str(events // shape.step), database),
            ],
            env={
                **os.environ,
                "PGPASSWORD": postgres.password,
                "PGOPTIONS": "-c synchronous_commit=off",
                "LC_ALL": "C",
            },
            capture_output=True,
            check=True,
        )


@contextmanager
def copied_slot(postgres: Postgres, backlog: Backlog, events: int) -> Iterator[str]:
    """Yield the name of a fresh copy of the slot that sees *events*: every drain gets the same WAL."""
    name = f"bench_{next(_slot_numbers)}"
    opened = postgres.connect(backlog.database)
    try:
        with opened.cursor() as cursor:
            cursor.execute(
                "SELECT pg_copy_logical_replication_slot(%s, %s, false)", [backlog.slots[events], name]
            )
            try:
                yield name
            finally:
                # A walsender may take a moment to notice that its client disconnected.
                cursor.execute(
                    "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
                    " WHERE slot_name = %s AND active_pid IS NOT NULL",
                    [name],
                )
                cursor.execute("SELECT pg_drop_replication_slot(%s)", [name])
    finally:
        opened.close()
