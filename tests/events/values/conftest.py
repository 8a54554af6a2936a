"""One database with types of every kind, and one session that prints."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.events.values.printer import SCHEMA, Printer
from walex_celery.testing.servers import Postgres


@pytest.fixture(scope="session")
def printer(postgres: Postgres) -> Iterator[Printer]:
    """A session in a database with the types of ``printer.SCHEMA``."""
    name = postgres.create_database()
    session = postgres.connect(name)
    with session.cursor() as cursor:
        cursor.execute(SCHEMA)
        cursor.execute("SELECT FROM pg_available_extensions WHERE name = 'vector'")
        if cursor.rowcount:
            cursor.execute("CREATE EXTENSION vector")
    yield Printer(session)
    session.close()
    postgres.drop_database(name)
