"""What Postgres says of a database's slots, and of the WAL."""

from __future__ import annotations

from psycopg2.errors import ObjectInUse

from tests.support import Database, wait_until
from walex_celery import Lsn


def active(database: Database) -> bool:
    return bool(
        database.execute("SELECT 1 FROM pg_replication_slots WHERE active AND database = current_database()")
    )


def confirmed(database: Database) -> Lsn:
    ((lsn,),) = database.execute(
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()"
    )
    return Lsn.parse(lsn)


def written(database: Database) -> Lsn:
    """Up to where the WAL is flushed, with all that was committed before the call.

    Not where the next record will begin: after a record that ends with its page, that is behind the next page's header,
    where nothing is before somebody writes; and what is not flushed is not sent.
    """
    ((lsn,),) = database.execute("SELECT pg_current_wal_flush_lsn()")
    return Lsn.parse(lsn)


def confirmed_flush(database: Database, slot: str) -> Lsn:
    """What the slot has been told that it may forget."""
    rows = database.execute(
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s", [slot]
    )
    return Lsn.parse(rows[0][0])


def slots(database: Database) -> list[tuple[str, bool, bool]]:
    """Name, whether temporary, and whether active, of the database's slots."""
    return [
        (name, temporary, active)
        for name, temporary, active in database.execute(
            "SELECT slot_name, temporary, active FROM pg_replication_slots WHERE database = %s",
            [database.name],
        )
    ]


def drop_slot_in_use(database: Database) -> None:
    """Drop the database's slot from under its producer, which connects again as soon as it can."""

    def dropped() -> bool:
        try:
            database.execute(
                "SELECT pg_terminate_backend(active_pid, 5000), pg_drop_replication_slot(slot_name)"
                " FROM pg_replication_slots WHERE database = current_database()"
            )
        except ObjectInUse:
            return False
        return True

    wait_until(dropped, message="the slot is dropped")
