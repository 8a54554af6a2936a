"""A set-up in which the doctor finds nothing, on a server of its own whose parameters tests may change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.operations.doctor.support import PASSWORD, Clinic
from tests.support import Database
from walex_celery.testing.servers import Postgres


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """Postgres as a careful administrator sets it."""
    settings = {
        "fsync": "off",
        "max_slot_wal_keep_size": "4GB",
        "max_replication_slots": "6",
        "max_wal_senders": "6",
        # So that a new segment costs nothing.
        "wal_init_zero": "off",
        "wal_recycle": "off",
    }
    with Postgres(settings=settings) as running:
        yield running


@pytest.fixture
def clinic(server: Postgres) -> Iterator[Clinic]:
    """The set-up, with its database; all is undone afterwards."""
    database = Database(server, server.create_database())
    role = database.name
    database.execute(
        f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD '{PASSWORD}';"
        " CREATE TABLE users (id int PRIMARY KEY, name text, updated_at timestamptz);"
        " ALTER TABLE users REPLICA IDENTITY FULL;"
        " CREATE PUBLICATION events FOR TABLE users"
    )
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [database.name])
    clinic = Clinic(database)
    clinic.read()
    try:
        yield clinic
    finally:
        clinic.close()
        server.drop_database(database.name)
        maintenance = Database(server, "postgres")
        maintenance.execute(f"DROP ROLE {role}")
        maintenance.execute("ALTER SYSTEM RESET ALL")
        maintenance.execute("SELECT pg_reload_conf()")
