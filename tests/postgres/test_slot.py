"""Each reason why a slot can't be read is its own error, with its fix, before the slot is touched (promise 8)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from psycopg2 import sql

from tests.support import Database
from walex_celery import SetupError, SlotInUse, WalExError
from walex_celery.errors import (
    NoFreeSlot,
    PrivilegeError,
    PublicationMissing,
    SlotLost,
    SlotMismatch,
    WalLevelError,
)
from walex_celery.postgres.connection import connect, connect_replication
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.server import Server, check_prerequisites, inspect_server
from walex_celery.postgres.slot import Slot, SlotCounts, check_slot, count_slots, create_slot, find_slot
from walex_celery.postgres.stream import ReplicationStream
from walex_celery.settings.model import load_settings
from walex_celery.testing.servers import Postgres

PASSWORD = "hunter2"


def settings_of(database: Database, **keywords: object) -> SlotSettings:
    given = {"name": "shop", "url": database.url, "publication": "events", "durable_slot": True, **keywords}
    return load_settings(given, {}).slot_settings()


def check(settings: SlotSettings) -> Server:
    """What a producer does before it touches the slot."""
    connection = connect(settings.connection)
    try:
        check_prerequisites(connection, settings)
        slot = find_slot(connection, settings)
        if slot is not None:
            check_slot(slot, settings)
        return inspect_server(connection, settings.connection)
    finally:
        connection.close()


def make_slot(settings: SlotSettings) -> Lsn | None:
    connection = connect_replication(settings.connection)
    try:
        return create_slot(connection.cursor(), settings)
    finally:
        connection.close()


def slot_of(settings: SlotSettings) -> Slot | None:
    connection = connect(settings.connection)
    try:
        return find_slot(connection, settings)
    finally:
        connection.close()


@pytest.fixture
def settings(database: Database) -> SlotSettings:
    """Of an instance whose database has its publication; its slot is named after the database."""
    database.execute("CREATE PUBLICATION events FOR ALL TABLES")
    return settings_of(database, slot_name=database.name)


def refused(settings: SlotSettings, kind: type[WalExError]) -> str:
    """The message when *settings* are refused with exactly *kind*."""
    with pytest.raises(kind) as caught:
        check(settings)
    assert type(caught.value) is kind
    for secret in settings.connection.secrets():
        assert secret not in str(caught.value)
    return str(caught.value)


# What is right.


def test_a_slot_is_made_once(settings: SlotSettings, database: Database) -> None:
    server = check(settings)
    made_at = make_slot(settings)
    assert make_slot(settings) is None

    slot = slot_of(settings)
    assert slot is not None
    assert (slot.name, slot.plugin, slot.type, slot.database, slot.temporary, slot.active_pid) == (
        settings.name, "pgoutput", "logical", database.name, False, None
    )  # fmt: skip
    assert slot.confirmed_flush_lsn == made_at
    assert check(settings) == server
    assert server.version >= 140000
    assert (server.database, server.wal_sender_timeout) == (database.name, 60)


def test_there_is_no_slot_at_first(settings: SlotSettings) -> None:
    assert slot_of(settings) is None


def test_a_temporary_slot_goes_with_its_connection(database: Database) -> None:
    settings = settings_of(database, durable_slot=False, slot_name=database.name)

    assert make_slot(settings) is not None
    assert make_slot(settings) is not None


def test_how_far_a_slot_is_behind(settings: SlotSettings, database: Database) -> None:
    make_slot(settings)
    before = slot_of(settings)
    database.execute("SELECT pg_logical_emit_message(true, 'filler', repeat('x', 100000))")
    after = slot_of(settings)

    assert before is not None
    assert after is not None
    assert before.lag_bytes is not None
    assert after.lag_bytes is not None
    assert after.lag_bytes - before.lag_bytes >= 100_000
    assert after.retained_bytes is not None
    assert after.retained_bytes >= after.lag_bytes
    assert (after.wal_status, after.safe_wal_bytes, after.is_active, after.is_lost) == (
        "reserved", None, False, False
    )  # fmt: skip


def test_a_position_read_before_the_slot_went_on_is_no_negative_lag() -> None:
    slot = Slot("s", "pgoutput", "logical", "shop", False, 42, Lsn(900), "reserved", wal_lsn=Lsn(800))

    assert (slot.lag_bytes, slot.retained_bytes, slot.is_active) == (0, None, True)


def test_the_slots_of_all_databases_are_counted(settings: SlotSettings) -> None:
    connection = connect(settings.connection)
    try:
        before = count_slots(connection, settings.connection)
        make_slot(settings)
        after = count_slots(connection, settings.connection)
    finally:
        connection.close()

    assert after == SlotCounts(before.all + 1, before.standbys)


# What is not.


def test_a_missing_publication(database: Database) -> None:
    database.execute("CREATE PUBLICATION present")
    settings = settings_of(
        database, publication=["present", 'odd "one"', "events"], subscriptions=["users", 'sales.x"y']
    )

    message = refused(settings, PublicationMissing)

    assert "'odd \"one\"', 'events' does not exist" in message
    assert 'fix: CREATE PUBLICATION "odd ""one""" FOR TABLE "public"."users", "sales"."x""y";' in message


def test_the_fix_for_a_missing_publication_works(database: Database) -> None:
    settings = settings_of(database, subscriptions=["*"], publication=['odd "one"'])
    message = refused(settings, PublicationMissing)

    database.execute(message.partition("fix: ")[2])

    check(settings)


@contextmanager
def role_of(database: Database, options: str) -> Iterator[str]:
    name = f'role "{database.name}"'
    role = sql.Identifier(name).as_string(database.connect())
    database.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}' {options}")
    try:
        yield name
    finally:
        database.execute(f"DROP ROLE {role}")


def test_a_role_without_replication(settings: SlotSettings, database: Database) -> None:
    with role_of(database, "NOREPLICATION") as role:
        limited = settings_of(database, username=role, password=PASSWORD)

        message = refused(limited, PrivilegeError)
        database.execute(message.partition("fix: ")[2].partition(";")[0])

        check(limited)


def test_a_role_without_replication_can_not_connect_for_replication(database: Database) -> None:
    with role_of(database, "NOREPLICATION") as role:
        with pytest.raises(PrivilegeError, match="ALTER ROLE") as caught:
            connect_replication(settings_of(database, username=role, password=PASSWORD).connection)
        assert PASSWORD not in str(caught.value)


def test_a_replication_role_needs_no_more(settings: SlotSettings, database: Database) -> None:
    with role_of(database, "REPLICATION") as role:
        check(settings_of(database, username=role, password=PASSWORD))


def test_a_slot_of_another_plugin(settings: SlotSettings, database: Database) -> None:
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", [settings.name])

    message = refused(settings, SlotMismatch)

    assert "is of plugin 'test_decoding', not 'pgoutput'" in message
    assert f"SELECT pg_drop_replication_slot('{settings.name}')" in message


def test_a_slot_of_another_database(settings: SlotSettings, postgres: Postgres) -> None:
    other = postgres.create_database()
    try:
        make_slot(settings_of(Database(postgres, other), slot_name=settings.name))

        assert f"is of database '{other}'" in refused(settings, SlotMismatch)
    finally:
        postgres.drop_database(other)


def test_a_physical_slot(settings: SlotSettings, database: Database) -> None:
    database.execute("SELECT pg_create_physical_replication_slot(%s)", [settings.name])
    try:
        assert "is a physical one" in refused(settings, SlotMismatch)
    finally:
        database.execute("SELECT pg_drop_replication_slot(%s)", [settings.name])


def test_a_slot_in_use(settings: SlotSettings) -> None:
    server = check(settings)
    stream = ReplicationStream(settings, server)
    second = ReplicationStream(settings, server)
    try:
        stream.create_slot()
        stream.start()

        assert "--standby" in refused(settings, SlotInUse)
        with pytest.raises(SlotInUse, match="--standby"):
            second.start()  # a race that the check did not see
    finally:
        stream.close()
        second.close()


def test_a_slot_in_use_is_a_runtime_error_as_in_walex() -> None:
    assert issubclass(SlotInUse, RuntimeError)


def test_a_temporary_slot_of_that_name_is_in_use(database: Database) -> None:
    settings = settings_of(database, durable_slot=False, slot_name=database.name)
    first = connect_replication(settings.connection)
    try:
        create_slot(first.cursor(), settings)
        with pytest.raises(SlotInUse, match="another slot_name="):
            make_slot(settings)
    finally:
        first.close()


def test_a_lost_slot() -> None:
    settings = load_settings(
        {"name": "shop", "database": "shop", "publication": "events"}, {}
    ).slot_settings()
    slot = Slot("shop_walex", "pgoutput", "logical", "shop", False, None, None, "lost")

    with pytest.raises(SlotLost, match="max_slot_wal_keep_size"):
        check_slot(slot, settings)


def test_a_slot_that_was_dropped_is_lost_whatever_its_name(database: Database) -> None:
    """publication_walex, say, is about the slot all the same."""
    settings = settings_of(database, name="publication")
    database.execute("CREATE PUBLICATION events")
    stream = ReplicationStream(settings, check(settings))
    try:
        with pytest.raises(SlotLost, match="backfill"):
            stream.start()
    finally:
        stream.close()


# Servers of their own.


def on_server(server: Postgres) -> SlotSettings:
    database = Database(server, "postgres")
    database.execute("CREATE PUBLICATION events")
    return settings_of(database)


def test_a_wal_level_that_is_not_logical() -> None:
    with Postgres(settings={"fsync": "off", "wal_level": "replica"}) as server:
        settings = on_server(server)

        assert "fix: ALTER SYSTEM SET wal_level = logical; then restart" in refused(settings, WalLevelError)
        with pytest.raises(WalLevelError):
            make_slot(settings)


def test_no_free_slot() -> None:
    with Postgres(settings={"fsync": "off", "max_replication_slots": "1"}) as server:
        settings = on_server(server)
        make_slot(settings)

        with pytest.raises(NoFreeSlot, match="raise max_replication_slots") as caught:
            make_slot(settings_of(Database(server, "postgres"), name="another"))
        assert isinstance(caught.value, SetupError)
        assert server.password not in str(caught.value)


def test_no_slots_at_all() -> None:
    with Postgres(settings={"fsync": "off", "max_replication_slots": "0"}) as server:
        settings = on_server(server)

        with pytest.raises(NoFreeSlot, match="max_replication_slots"):
            make_slot(settings)


def test_no_free_walsender() -> None:
    with Postgres(settings={"fsync": "off", "max_wal_senders": "1"}) as server:
        settings = on_server(server)
        first = connect_replication(settings.connection)
        try:
            with pytest.raises(NoFreeSlot, match="max_wal_senders"):
                connect_replication(settings.connection)
        finally:
            first.close()
