"""The structs that the package is given: what they say, and what they never show (promise 9)."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from tests.support import Database
from walex_celery.postgres.connection import connect
from walex_celery.postgres.parameters import ConnectionSettings, SlotSettings

PASSWORD = "hunter2"
CONNECTION = ConnectionSettings(
    hosts=(("db", 5432), ("/run/postgresql", 5433)),
    database="shop",
    user="me",
    password=PASSWORD,
    hidden=(f"postgresql://me:{PASSWORD}@db/shop",),
)
SLOT = SlotSettings(connection=CONNECTION, name="shop_walex", publications=("events",))


def test_no_text_of_them_has_the_password() -> None:
    for text in (repr(CONNECTION), str(CONNECTION), repr(SLOT), CONNECTION.address()):
        assert PASSWORD not in text
    assert PASSWORD in CONNECTION.secrets()


def test_the_address_names_each_host_with_its_port() -> None:
    assert CONNECTION.address() == "me@db:5432,/run/postgresql:5433/shop"
    assert replace(CONNECTION, user=None, hosts=(("db", 5432),)).address() == "db:5432/shop"


def test_they_are_values() -> None:
    """Equal when they say the same, so that what is compared with them notices a change and nothing else."""
    assert replace(SLOT, connection=replace(CONNECTION)) == SLOT
    assert hash(replace(SLOT)) == hash(SLOT)
    assert replace(SLOT, connection=replace(CONNECTION, password="other")) != SLOT
    with pytest.raises(FrozenInstanceError):
        CONNECTION.password = ""  # type: ignore[misc]


def test_the_first_of_several_hosts_that_answers_is_taken(database: Database) -> None:
    server = database.server
    settings = ConnectionSettings(
        hosts=(("127.0.0.1", 1), ("127.0.0.1", server.port)),
        database=database.name,
        user=server.username,
        password=server.password,
        libpq={"options": "-c work_mem=1234kB"},
    )

    connection = connect(settings)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW work_mem")
            assert cursor.fetchone() == ("1234kB",)
        assert connection.info.port == server.port
    finally:
        connection.close()
