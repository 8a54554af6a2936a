"""A slot that sends transactions when they are prepared: refused before it is read, with a fix that loses nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Database, wait_until
from walex_celery.errors import SlotMismatch
from walex_celery.postgres.opening import Opened, Read, open_stream
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.stream import StreamMessage
from walex_celery.settings.model import load_settings
from walex_celery.testing.servers import Postgres, npm_postgres

PREPARED = b"BRIC"  # a whole transaction: Begin, Relation, Insert, Commit


@pytest.fixture(scope="module", params=[14, 15, 18])
def server(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    settings = {"fsync": "off", "max_prepared_transactions": "5"}
    with Postgres(npm_postgres(request.param), settings=settings) as server:
        yield server


@pytest.fixture
def settings(server: Postgres) -> Iterator[SlotSettings]:
    """Of a database with a two-phase slot that nothing has read, in front of a transaction prepared and committed."""
    database = Database(server, server.create_database())
    database.execute("CREATE TABLE t (id int); CREATE PUBLICATION events FOR TABLE t")
    database.execute(f"SELECT pg_create_logical_replication_slot('{database.name}', 'pgoutput', false, true)")
    other = database.connect()
    with other.cursor() as cursor:
        cursor.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one'")
        cursor.execute("COMMIT PREPARED 'one'")
    other.close()
    given = {"name": "shop", "url": database.url, "publication": "events", "durable_slot": True}
    yield load_settings({**given, "slot_name": database.name}, {}).slot_settings()
    server.drop_database(database.name)


def kinds_read(opened: Opened) -> bytes:
    """The types of the messages up to the first commit."""
    messages: list[StreamMessage] = []
    try:
        opened.stream.start()

        def complete() -> bool:
            messages.extend(opened.stream.read(pending=False, timeout=1.0))
            return any(message.payload[:1] in (b"C", b"K") for message in messages)

        wait_until(complete, message="the transaction is read")
    finally:
        opened.stream.close()
    return b"".join(message.payload[:1] for message in messages)


def test_it_is_refused_and_the_fix_keeps_what_it_holds(settings: SlotSettings, server: Postgres) -> None:
    database = Database(server, settings.connection.database)
    if database.execute("SHOW server_version_num")[0][0] < "150000":
        assert kinds_read(open_stream(settings, Read())) == PREPARED, (
            "up to 14, pgoutput sends it whole all the same"
        )
        return

    with pytest.raises(SlotMismatch, match="was made with two_phase = true") as caught:
        open_stream(settings, Read())
    database.execute(str(caught.value).partition("\n  fix: ")[2])

    assert kinds_read(open_stream(settings, Read())) == PREPARED
    assert len(database.execute("SELECT slot_name FROM pg_replication_slots")) == 1
