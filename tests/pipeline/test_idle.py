"""Promise 5: writes that concern nobody never make the slot hold WAL, whatever stands between stream and processing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import Database, wait_until
from tests.support.producers import make_app, running
from tests.support.slots import confirmed, written
from walex_celery import Event, Filters, Lsn, Spool, WalEx, process_message_async, process_message_sync
from walex_celery.sources.middleware import STORED

SCHEMA = """
CREATE TABLE items (id int PRIMARY KEY, note text);
CREATE TABLE unsubscribed (id int);
CREATE TABLE unpublished (id int);
CREATE PUBLICATION events FOR TABLE items, unsubscribed;
"""


def hands_on(message: Any, name: str) -> None:
    process_message_sync(message, name)


def queues(message: Any, name: str) -> None:
    process_message_async(message, name)


def stores(message: Any, name: str) -> Any:
    process_message_async(message, name)
    return STORED


MIDDLEWARE: dict[str, Callable[[Path], Any]] = {
    "stream": lambda folder: None,
    "spool": Spool,
    "middleware": lambda folder: hands_on,
    "asynchronous middleware": lambda folder: queues,
    "storing middleware": lambda folder: stores,
}


def restart_lsn(database: Database) -> Lsn:
    ((lsn,),) = database.execute(
        "SELECT restart_lsn FROM pg_replication_slots WHERE database = current_database()"
    )
    return Lsn.parse(lsn)


@pytest.mark.parametrize("way", MIDDLEWARE)
def test_what_concerns_nobody_is_acknowledged(
    database: Database, redis_url: str, tmp_path: Path, way: str
) -> None:
    database.execute(SCHEMA)
    other = Database(database.server, database.server.create_database())
    other.execute("CREATE TABLE elsewhere (id int)")
    walex = WalEx(
        make_app(redis_url),
        name="shop",
        url=database.url,
        publication="events",
        subscriptions=["items"],
        durable_slot=True,
        message_middleware=MIDDLEWARE[way](tmp_path / "spool"),
    )
    events: list[list[Event]] = []
    walex.on_insert("items", Filters(unwatched_records={"note": "quiet"}))(events.append)
    writes = [
        (database, "INSERT INTO unpublished SELECT generate_series(1, 5000)"),
        (other, "INSERT INTO elsewhere SELECT generate_series(1, 5000)"),
        (database, "INSERT INTO unsubscribed SELECT generate_series(1, 2000)"),
        (database, "INSERT INTO items SELECT g, 'quiet' FROM generate_series(1, 2000) g"),
    ]
    try:
        with running(walex):
            for where, statement in writes:
                where.execute(statement)
                end = written(database)
                wait_until(lambda: confirmed(database) >= end, 20, statement)  # noqa: B023
            # Postgres moves it on when it next logs what runs, which it does by itself every 15 s.
            database.execute("SELECT pg_log_standby_snapshot()")
            database.execute("INSERT INTO unpublished VALUES (1)")
            wait_until(lambda: restart_lsn(database) >= end, 30)
    finally:
        database.server.drop_database(other.name)
    assert events == []
