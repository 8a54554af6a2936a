"""A server that takes the producer for a synchronous standby (``synchronous_standby_names = '*'``).

Commits wait until it has confirmed them. What it stores itself, while an event is in hand, must not wait for itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support import Database, wait_until
from tests.support.producers import make_app, running
from walex_celery import Event, WalEx
from walex_celery.dead_letters import schema_sql
from walex_celery.postgres.connection import connect
from walex_celery.postgres.server import synchronous_standby
from walex_celery.testing.servers import Postgres, npm_postgres


@pytest.fixture(scope="module", params=[14, 18])
def server(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    with Postgres(npm_postgres(request.param), settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture
def database(server: Postgres) -> Iterator[Database]:
    database = Database(server, server.create_database())
    database.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE t")
    yield database
    name_standbys(database, "")
    server.drop_database(database.name)


@pytest.fixture
def walex(database: Database, redis_url: str) -> WalEx:
    return WalEx(
        make_app(redis_url), name="shop", url=database.url, publication="events", subscriptions=["t"],
        durable_slot=True, slot_name=database.name, on_error="dead_letter", dead_letters="postgres",
    )  # fmt: skip


def name_standbys(database: Database, names: str) -> None:
    database.execute("ALTER SYSTEM SET synchronous_standby_names = %s", (names,))
    database.execute("SELECT pg_reload_conf()")
    wait_until(lambda: database.execute("SHOW synchronous_standby_names") == [(names,)])


def test_dead_letters_are_stored_and_the_producer_warns(
    database: Database, walex: WalEx, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute("".join(schema_sql()))
    got: list[Event] = []

    @walex.on_insert("t")
    def things(events: list[Event]) -> None:
        if events[0].new_record["id"] == 1:
            raise ValueError("not this one")
        got.extend(events)

    with caplog.at_level(logging.WARNING), running(walex):
        name_standbys(database, "*")
        writer = database.connect()
        with writer.cursor() as cursor:
            for number in (1, 2):
                cursor.execute("INSERT INTO t VALUES (%s)", (number,))
        writer.close()
        wait_until(lambda: got, message="the stream goes on")
    assert database.execute("SELECT count(*) FROM walex.dead_letters") == [(1,)]
    with caplog.at_level(logging.WARNING), running(walex):
        pass
    assert "synchronous_standby_names is '*', which names the producer ('walex shop') too" in caplog.text
    assert "fix: name the standby servers there instead" in caplog.text


@pytest.mark.parametrize(
    ("names", "is_named"),
    [
        ("", False),
        ("*", True),
        ("FIRST 2 (standby1, *)", True),
        ('ANY 1 (standby1, "Walex Shop")', True),
        ('"walex shop"', True),
        ("2 (standby1, walex)", False),
        ("any 1 (standby1, standby2)", False),
    ],
)
def test_who_is_named(names: str, is_named: bool, database: Database, walex: WalEx) -> None:
    name_standbys(database, names)
    settings = walex.settings.connection_settings()
    connection = connect(settings)
    assert (synchronous_standby(connection, settings) is not None) is is_named
    connection.close()
