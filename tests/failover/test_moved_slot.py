"""A slot that someone else moves, or drops and makes again: what is skipped then is named (promise 1)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.broker.support import Proxy
from tests.support import Database, shop, wait_until
from tests.support.producers import make_app, running
from tests.support.slots import confirmed, written
from walex_celery import Lsn, process_message_async

SCHEMA = "CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE items"
ADVANCE = "SELECT pg_replication_slot_advance('shop_walex', pg_current_wal_lsn())"
MAKE_AGAIN = (
    "SELECT pg_drop_replication_slot('shop_walex');"
    "SELECT pg_create_logical_replication_slot('shop_walex', 'pgoutput')"
)
MOVED = "slot shop_walex was moved, or dropped and made again, since it was last read"


def hands_on(message: Any, name: str) -> None:
    process_message_async(message, name)


def wait_until_done(database: Database) -> Lsn:
    end = written(database)
    wait_until(lambda: confirmed(database) >= end, 60)
    return confirmed(database)


def free(database: Database) -> bool:
    return not database.execute("SELECT 1 FROM pg_replication_slots WHERE active")


@pytest.mark.parametrize("step", [ADVANCE, MAKE_AGAIN], ids=["advanced", "made again"])
@pytest.mark.parametrize("way", ["stream", "once", "middleware"])
def test_while_the_producer_reconnects(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture, way: str, step: str
) -> None:
    database.execute(SCHEMA)
    port = database.server.port
    with Proxy(port) as proxy:
        walex = shop.make_walex(
            make_app(redis_url),
            database,
            url=database.url.replace(f":{port}/", f":{proxy.port}/"),
            exactly_once_enqueue=way == "once",
            message_middleware=hands_on if way == "middleware" else None,
        )
        events = shop.collect(walex)
        with running(walex) as producer:
            database.execute("INSERT INTO items VALUES (1)")
            known = wait_until_done(database)
            connects = producer.statistics.connects
            proxy.refusing = True
            proxy.cut()
            wait_until(lambda: free(database))
            database.execute("INSERT INTO items VALUES (2)")
            database.execute(step)
            found = confirmed(database)
            proxy.refusing = False
            wait_until(lambda: producer.statistics.connects > connects, 30)
            database.execute("INSERT INTO items VALUES (3)")
            wait_until_done(database)

    assert [event.key for event in events] == [{"id": 1}, {"id": 3}]
    (line,) = (line for line in caplog.messages if line.startswith(MOVED))
    assert f"it stands at {found}, and only what is up to {known} had been acknowledged" in line
    assert "fix: unless another producer has read it, backfill" in line


@pytest.mark.parametrize("step", [ADVANCE, MAKE_AGAIN], ids=["advanced", "made again"])
def test_while_no_producer_runs_and_a_position_is_stored(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    database.execute(SCHEMA)
    walex = shop.make_enqueuing(make_app(redis_url), database, exactly_once_enqueue=True)
    with running(walex):
        database.execute("INSERT INTO items VALUES (1)")
        known = wait_until_done(database)
    wait_until(lambda: free(database))
    database.execute("INSERT INTO items VALUES (2)")
    database.execute(step)
    found = confirmed(database)

    with running(walex):
        wait_until(lambda: MOVED in caplog.text)

    assert f"it stands at {found}, and only what is up to {known} had been acknowledged" in caplog.text


def test_the_slot_is_dropped_while_no_producer_runs_and_a_position_is_stored(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The producer itself makes it again, and knows since when changes are missing."""
    database.execute(SCHEMA)
    walex = shop.make_enqueuing(make_app(redis_url), database, exactly_once_enqueue=True)
    with running(walex):
        database.execute("INSERT INTO items VALUES (1)")
        known = wait_until_done(database)
    wait_until(lambda: free(database))
    database.execute("SELECT pg_drop_replication_slot('shop_walex')")

    with running(walex):
        wait_until(lambda: MOVED in caplog.text)

    assert f"only what is up to {known} had been acknowledged" in caplog.text
    assert "the slot was made again" in caplog.text


def test_a_slot_that_nobody_moved_is_not_mentioned(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever ends the connection, and whatever psycopg2 has acknowledged by itself."""
    database.execute(SCHEMA)
    database.execute("CREATE TABLE unpublished (id int)")
    walex = shop.make_enqueuing(make_app(redis_url), database, exactly_once_enqueue=True)
    with caplog.at_level(logging.WARNING):
        for first in (0, 100):
            with running(walex) as producer:
                for turn in range(1, 4):
                    database.execute("INSERT INTO unpublished SELECT generate_series(1, 1000)")
                    database.execute("INSERT INTO items VALUES (%s)", (first + turn,))
                    if turn == 2:
                        wait_until_done(database)
                    database.execute(
                        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active"
                    )
                    wait_until(lambda: producer.statistics.connects > turn, 30)  # noqa: B023
                database.execute("INSERT INTO unpublished SELECT generate_series(1, 1000)")
            wait_until(lambda: free(database))
            database.execute("INSERT INTO unpublished SELECT generate_series(1, 1000)")

    assert MOVED not in caplog.text
    assert "gone back" not in caplog.text
