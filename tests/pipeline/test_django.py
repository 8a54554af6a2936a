"""Batch handlers that use Django's ORM, whose connection is cut (promise 1)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import Database, wait_until
from walex_celery.dead_letters import schema_sql

SCHEMA = """
CREATE TABLE items (id int PRIMARY KEY);
CREATE TABLE done (id int PRIMARY KEY);
CREATE PUBLICATION events FOR TABLE items;
"""


@contextmanager
def producing(database: Database, broker_url: str, on_error: str, **connections: object) -> Iterator[None]:
    """``django_producer.py``, whose ORM manages its *connections* as these settings of Django say."""
    orm = {
        "ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "PORT": database.server.port,
        "NAME": database.name, "USER": database.server.username, "PASSWORD": database.server.password,
        "OPTIONS": {"application_name": "orm"}, **connections,
    }  # fmt: skip
    program = Path(__file__).with_name("django_producer.py")
    process = subprocess.Popen(
        [sys.executable, program, database.url, broker_url, json.dumps(orm), on_error],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        wait_until(lambda: database.execute("SELECT active FROM pg_replication_slots") == [(True,)], 30)
        yield
        assert process.poll() is None, "it goes on"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def shop(database: Database) -> Database:
    database.execute(SCHEMA)
    database.execute("".join(schema_sql()))
    return database


def insert(database: Database, row: int) -> None:
    """Insert an item, and wait until it is done or a dead letter."""
    database.execute("INSERT INTO items VALUES (%s)", [row])
    wait_until(lambda: len(done(database)) + letters(database) == row, message=f"row {row} is handled")


def done(database: Database) -> list[int]:
    return [row for (row,) in database.execute("SELECT id FROM done ORDER BY id")]


def letters(database: Database) -> int:
    ((count,),) = database.execute("SELECT count(*) FROM walex.dead_letters")
    return int(count)


def cut(database: Database) -> None:
    """End what connections the ORM has."""
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'orm'"
    )


@pytest.mark.parametrize(
    ("connections", "on_error", "aside"),
    [
        # Django's default: a connection is closed after each call.
        ({}, "dead_letter", 0),
        # Kept: who is cut off notices at the next use, unless Django looks first.
        ({"CONN_MAX_AGE": None}, "dead_letter", 2),
        ({"CONN_MAX_AGE": None}, "retry:backoff=0.1", 0),
        ({"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}, "halt", 0),
    ],
    ids=str,
)
def test_the_call_after_a_cut_connection_has_a_new_one(
    connections: dict[str, object], on_error: str, aside: int, shop: Database, redis_url: str
) -> None:
    with producing(shop, redis_url, on_error, **connections):
        insert(shop, 1)
        cut(shop)
        insert(shop, 2)
        insert(shop, 3)
        cut(shop)
        insert(shop, 4)
        insert(shop, 5)
    assert letters(shop) == aside
    assert done(shop) == ([1, 2, 3, 4, 5] if not aside else [1, 3, 5])
