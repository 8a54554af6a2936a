"""The replication slot: what must be right before it can be read, finding it, making it."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import psycopg2
from psycopg2 import errorcodes, sql
from psycopg2.extensions import connection as Connection

from walex_celery.errors import PublicationMissing, SlotInUse, SlotMismatch
from walex_celery.filters import ALL_TABLES
from walex_celery.postgres.connection import (
    explain_error,
    privilege_error,
    quote_identifier,
    slot_invalidated,
    wal_level_error,
)
from walex_celery.postgres.lsn import Lsn
from walex_celery.settings.model import WalExSettings

PLUGIN: Final = "pgoutput"


class Slot(msgspec.Struct, frozen=True):
    """A row of ``pg_replication_slots`` (manual, section 53.20)."""

    name: str
    plugin: str | None
    type: str
    database: str | None
    temporary: bool
    active_pid: int | None
    confirmed_flush_lsn: Lsn | None
    wal_status: str | None
    invalidation_reason: str | None = None
    failover: bool = False
    synced: bool = False


class Server(msgspec.Struct, frozen=True):
    """What the producer needs to know of the server.

    Attributes:
        version: ``server_version_num``, 180006 for 18.6.
        system_identifier: of the cluster; a part of task ids.
        database: the one connected to.
        wal_sender_timeout: seconds after which the server cuts a silent receiver off; 0 for never.
        in_recovery: whether it is a standby server.
    """

    version: int
    system_identifier: int
    database: str
    wal_sender_timeout: float
    in_recovery: bool = False


def inspect_server(connection: Connection, settings: WalExSettings) -> Server:
    """What the server is; raises the error that :func:`explain_error` makes of a failure."""
    row = _one(
        connection,
        settings,
        "SELECT current_setting('server_version_num')::int, system_identifier, current_database(),"
        " (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'), pg_is_in_recovery()"
        " FROM pg_control_system()",
    )
    assert row is not None
    return Server(row[0], row[1], row[2], row[3] / 1000, row[4])


def check_prerequisites(connection: Connection, settings: WalExSettings) -> None:
    """Everything that can be known before the slot is touched.

    Raises:
        WalLevelError, PrivilegeError, PublicationMissing: each with the line that mends it.
    """
    row = _one(connection, settings, "SELECT current_setting('wal_level'), current_user")
    assert row is not None
    wal_level, role = row
    if wal_level != "logical":
        raise wal_level_error(f"wal_level is {wal_level!r}")
    if not may_replicate(connection, settings):
        raise privilege_error(role, "lacks the REPLICATION attribute")
    names = list(settings.publication)
    row = _one(
        connection,
        settings,
        "SELECT array_agg(name) FROM unnest(%s) name WHERE name NOT IN (SELECT pubname FROM pg_publication)",
        (names,),
    )
    missing = row[0] if row else None
    if missing:
        tables = ", ".join(
            f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"
            for table in settings.subscriptions
            if table != ALL_TABLES
        )
        wanted = "FOR ALL TABLES" if settings.all_tables or not tables else f"FOR TABLE {tables}"
        mends = "; ".join(f"CREATE PUBLICATION {quote_identifier(name)} {wanted}" for name in missing)
        raise PublicationMissing(
            f"publication {', '.join(map(repr, missing))} does not exist in database {settings.database!r}\n"
            f"  fix: {mends};"
        )


def may_replicate(connection: Connection, settings: WalExSettings) -> bool:
    """Whether the role connected as has the REPLICATION attribute, or what Amazon RDS has instead."""
    row = _one(
        connection,
        settings,
        "SELECT rolsuper OR rolreplication OR EXISTS (SELECT FROM pg_roles managed WHERE managed.rolname ="
        " 'rds_replication' AND pg_has_role(me.oid, managed.oid, 'USAGE')) FROM pg_roles me"
        " WHERE rolname = current_user",
    )
    return bool(row and row[0])


def find_slot(connection: Connection, settings: WalExSettings) -> Slot | None:
    """The slot of the settings' name, or ``None``."""
    row = _one(
        connection,
        settings,
        "SELECT slot_name, plugin, slot_type, database, temporary, active_pid, confirmed_flush_lsn, wal_status,"
        # As JSON: older majors don't have these columns.
        " told ->> 'invalidation_reason', coalesce((told ->> 'failover')::bool, false),"
        " coalesce((told ->> 'synced')::bool, false)"
        " FROM pg_replication_slots AS slots, to_jsonb(slots) AS told WHERE slot_name = %s",
        (settings.slot,),
    )
    if row is None:
        return None
    name, plugin, type, database, temporary, active_pid, confirmed, *rest = row
    confirmed_lsn = None if confirmed is None else Lsn.parse(confirmed)
    return Slot(name, plugin, type, database, temporary, active_pid, confirmed_lsn, *rest)


def check_slot(slot: Slot, settings: WalExSettings) -> None:
    """That *slot* is ours to read.

    Raises:
        SlotMismatch: it belongs to something else.
        SlotLost: Postgres has invalidated it.
        SlotInUse: another process reads it.
    """
    mend = f"fix: give this instance another slot_name=, or SELECT pg_drop_replication_slot('{slot.name}')"
    if slot.type != "logical":
        raise SlotMismatch(f"slot {slot.name!r} is a {slot.type} one; a logical one is needed\n  {mend}")
    if slot.plugin != PLUGIN:
        raise SlotMismatch(f"slot {slot.name!r} is of plugin {slot.plugin!r}, not {PLUGIN!r}\n  {mend}")
    if slot.database != settings.database:
        raise SlotMismatch(
            f"slot {slot.name!r} is of database {slot.database!r}; this instance reads {settings.database!r}\n  {mend}"
        )
    if slot.wal_status == "lost":
        raise slot_invalidated(slot.name, slot.invalidation_reason or "wal_removed")
    if slot.active_pid is not None:
        raise SlotInUse(
            f"replication slot {slot.name!r} is in use by the backend with pid {slot.active_pid}: another producer "
            "runs. Stop it, start this one with --standby to wait for it, or give this instance another slot_name="
        )
    if slot.temporary and settings.durable_slot:
        raise SlotMismatch(f"slot {slot.name!r} is a temporary one of another session\n  {mend}")
    if not slot.temporary and not settings.durable_slot:
        raise SlotMismatch(
            f"slot {slot.name!r} is a durable one, and the settings ask for a temporary one: reading it would use "
            f"up what somebody keeps it for\n  fix: set durable_slot=True to go on where it stands, or give this "
            "instance another slot_name="
        )


def create_slot(cursor: Any, settings: WalExSettings) -> Lsn | None:
    """Make the slot over a replication connection; ``None`` if it was there already (another producer's race).

    Source: manual, section 54.4, CREATE_REPLICATION_SLOT. A temporary slot lives as long as the connection.

    Returns:
        The consistent point: what is committed after it comes.
    """
    command = sql.SQL("CREATE_REPLICATION_SLOT {} {} LOGICAL {} {}").format(
        sql.Identifier(settings.slot),
        sql.SQL("" if settings.durable_slot else "TEMPORARY"),
        sql.Identifier(PLUGIN),
        # The options in parentheses came with Postgres 15, failover with 17.
        sql.SQL("(SNAPSHOT 'nothing', FAILOVER true)" if settings.failover else "NOEXPORT_SNAPSHOT"),
    )
    try:
        cursor.execute(command)
        _, consistent_point, *_ = cursor.fetchone()
    except psycopg2.Error as error:
        if error.pgcode == errorcodes.DUPLICATE_OBJECT and settings.durable_slot:
            return None
        raise explain_error(error, settings) from error
    return Lsn.parse(consistent_point)


def _one(
    connection: Connection, settings: WalExSettings, query: str, parameters: tuple[Any, ...] | None = None
) -> tuple[Any, ...] | None:
    try:
        with connection.cursor() as cursor:
            cursor.execute(query, parameters)
            row: tuple[Any, ...] | None = cursor.fetchone()
            return row
    except psycopg2.Error as error:
        raise explain_error(error, settings) from error
