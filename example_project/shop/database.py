"""The shop's connection to its database, and how an effect in it happens exactly once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg2
from psycopg2.extensions import connection, cursor

from walex_celery import Event, Lsn

_connections: dict[str, connection] = {}


def database_url() -> str:
    """Where the shop's tables are."""
    return os.environ.get("SHOP_DATABASE_URL", "postgresql://localhost/shop")


@contextmanager
def transaction() -> Iterator[cursor]:
    """A cursor in a transaction of its own, on a connection that this process keeps."""
    url = database_url()
    opened = _connections.get(url)
    if opened is None or opened.closed:
        opened = _connections[url] = psycopg2.connect(url, connect_timeout=10)
    try:
        with opened, opened.cursor() as cursor:
            yield cursor
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        # The connection may be broken: the next transaction opens a new one.
        opened.close()
        raise


def first_time(cursor: cursor, task_id: str | None, task: str) -> bool:
    """Whether this task runs for the first time; recorded in the same transaction as its effect."""
    cursor.execute(
        "INSERT INTO inbox (task_id, task) VALUES (%s, %s) ON CONFLICT DO NOTHING", (task_id, task)
    )
    return cursor.rowcount == 1


def not_seen(cursor: cursor, handler: str, events: Sequence[Event]) -> list[Event]:
    """The events that a batch handler has not counted yet; its position moves in the same transaction.

    After a crash the producer repeats what was not acknowledged: the same events with the same LSNs.
    """
    cursor.execute("SELECT lsn::text, event_index FROM handler_positions WHERE handler = %s", (handler,))
    row = cursor.fetchone()
    position = (Lsn.parse(row[0]), row[1]) if row else (0, -1)
    fresh = [event for event in events if (event.lsn, event.index) > position]
    if fresh:
        cursor.execute(
            "INSERT INTO handler_positions VALUES (%s, %s, %s) ON CONFLICT (handler) "
            "DO UPDATE SET lsn = EXCLUDED.lsn, event_index = EXCLUDED.event_index",
            (handler, str(fresh[-1].lsn), fresh[-1].index),
        )
    return fresh
