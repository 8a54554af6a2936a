"""The replication slot: reading its state, checking that it is ours, making it.

Nothing else in the package queries ``pg_replication_slots``, but for the catalog's ``catalog_xmin``.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import psycopg2
from psycopg2 import errorcodes, sql
from psycopg2.extensions import connection as Connection

from walex_celery.errors import SlotMismatch
from walex_celery.postgres.errors import explain_slot_error, quote_literal, slot_in_use, slot_invalidated
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.parameters import ConnectionSettings, SlotSettings
from walex_celery.postgres.server import WAL_LSN, query_row

PLUGIN: Final = "pgoutput"

#: Postgres refuses longer ones.
MAX_NAME_BYTES: Final = 63

# Columns that older majors don't have are read from JSON.
_SLOT: Final = f"""
SELECT slot_name, plugin, slot_type, database, temporary, active_pid, wal_status, safe_wal_size,
       as_json ->> 'invalidation_reason', coalesce((as_json ->> 'failover')::bool, false),
       coalesce((as_json ->> 'synced')::bool, false),
       -- Up to Postgres 14 pgoutput sends nothing of it.
       (as_json ->> 'two_phase')::bool AND current_setting('server_version_num')::int >= 150000,
       confirmed_flush_lsn, restart_lsn, {WAL_LSN}
FROM pg_replication_slots AS slots, to_jsonb(slots) AS as_json WHERE slot_name = %s
"""
_COUNTS: Final = """
SELECT count(*), count(*) FILTER (WHERE slot_type = 'physical' AND active) FROM pg_replication_slots
"""
# What is older than catalog_xmin was committed before what the slot still has to decode. The reverse is not certain:
# catalog_xmin advances with a delay, and an ALTER PUBLICATION writes the row again.
_NEWER_PUBLICATIONS: Final = """
SELECT coalesce(array_agg(p.pubname::text ORDER BY p.pubname), '{}') FROM pg_publication p, pg_replication_slots s
WHERE p.pubname = ANY (%s::name[]) AND s.slot_name = %s AND s.database = current_database()
  AND age(p.xmin) <= age(s.catalog_xmin)
"""


class Slot(msgspec.Struct, frozen=True):
    """A row of ``pg_replication_slots`` (manual, section 53.20).

    Attributes:
        confirmed_flush_lsn: up to where Postgres may forget changes.
        wal_status: ``reserved``, ``extended``, ``unreserved`` or ``lost``.
        invalidation_reason: why it was invalidated (Postgres 17 and newer).
        failover: whether standby servers keep a copy of it.
        synced: whether it is such a copy.
        two_phase: whether transactions are sent when they are prepared.
        restart_lsn: from where Postgres keeps WAL for it.
        safe_wal_bytes: WAL that may be written before it is lost; ``None`` without ``max_slot_wal_keep_size``.
        wal_lsn: how far the WAL was written when the row was read.
    """

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
    two_phase: bool = False
    restart_lsn: Lsn | None = None
    safe_wal_bytes: int | None = None
    wal_lsn: Lsn | None = None

    @property
    def is_active(self) -> bool:
        """Whether a process reads it."""
        return self.active_pid is not None

    @property
    def is_lost(self) -> bool:
        """Whether Postgres has invalidated it."""
        return self.wal_status == "lost"

    @property
    def lag_bytes(self) -> int | None:
        """WAL written and not confirmed; ``None`` while the slot is being made."""
        return self._behind(self.confirmed_flush_lsn)

    @property
    def retained_bytes(self) -> int | None:
        """WAL that Postgres keeps for it."""
        return self._behind(self.restart_lsn)

    def _behind(self, lsn: Lsn | None) -> int | None:
        return None if lsn is None or self.wal_lsn is None else max(0, self.wal_lsn - lsn)


class SlotCounts(msgspec.Struct, frozen=True):
    """The slots of a server.

    Attributes:
        all: how many there are.
        standbys: how many of them a standby server reads.
    """

    all: int
    standbys: int


def find_slot(connection: Connection, settings: SlotSettings) -> Slot | None:
    """The slot of the settings' name, or ``None``."""
    row = query_row(connection, settings.connection, _SLOT, (settings.name,))
    if row is None:
        return None
    (
        name,
        plugin,
        type,
        database,
        temporary,
        active_pid,
        status,
        safe_bytes,
        reason,
        failover,
        synced,
        two_phase,
        *lsns,
    ) = row
    confirmed, restart, wal = (None if lsn is None else Lsn.parse(lsn) for lsn in lsns)
    return Slot(
        name,
        plugin,
        type,
        database,
        temporary,
        active_pid,
        confirmed,
        status,
        invalidation_reason=reason,
        failover=failover,
        synced=synced,
        two_phase=two_phase,
        restart_lsn=restart,
        safe_wal_bytes=safe_bytes,
        wal_lsn=wal,
    )


def count_slots(connection: Connection, settings: ConnectionSettings) -> SlotCounts:
    """How many slots the server has, of all databases."""
    row = query_row(connection, settings, _COUNTS)
    assert row is not None
    return SlotCounts(*row)


def newer_publications(connection: Connection, settings: SlotSettings) -> list[str]:
    """The publications that may have been made, or altered, after the position from which the slot is read."""
    row = query_row(
        connection, settings.connection, _NEWER_PUBLICATIONS, (list(settings.publications), settings.name)
    )
    assert row is not None
    return list(row[0])


def check_slot(slot: Slot, settings: SlotSettings) -> None:
    """Check that *slot* is ours to read.

    Raises:
        SlotMismatch: it belongs to something else.
        SlotLost: Postgres has invalidated it.
        SlotInUse: another process reads it.
    """
    fix = f"fix: give this instance another slot_name=, or SELECT pg_drop_replication_slot('{slot.name}')"
    if slot.type != "logical":
        raise SlotMismatch(f"slot {slot.name!r} is a {slot.type} one; a logical one is needed\n  {fix}")
    if slot.plugin != PLUGIN:
        raise SlotMismatch(f"slot {slot.name!r} is of plugin {slot.plugin!r}, not {PLUGIN!r}\n  {fix}")
    if slot.database != settings.connection.database:
        raise SlotMismatch(
            f"slot {slot.name!r} is of database {slot.database!r}; this instance reads "
            f"{settings.connection.database!r}\n  {fix}"
        )
    if slot.is_lost:
        raise slot_invalidated(slot.name, slot.invalidation_reason or "wal_removed")
    if slot.two_phase:
        raise _sends_prepared(slot)
    if slot.active_pid is not None:
        raise slot_in_use(slot.name, f"by the backend with pid {slot.active_pid}")
    if slot.temporary and settings.durable:
        raise SlotMismatch(f"slot {slot.name!r} is a temporary one of another session\n  {fix}")
    if not slot.temporary and not settings.durable:
        raise SlotMismatch(
            f"slot {slot.name!r} is durable, and the settings ask for a temporary one: reading it would consume "
            "changes that something else may need\n  fix: set durable_slot=True to go on where it stands, or give "
            "this instance another slot_name="
        )


def _sends_prepared(slot: Slot) -> SlotMismatch:
    name, copy = quote_literal(slot.name), quote_literal(f"{slot.name[: MAX_NAME_BYTES - 5]}_copy")
    return SlotMismatch(
        f"slot {slot.name!r} was made with two_phase = true: it sends transactions when they are prepared, before it "
        "is known whether they commit, which this instance does not read\n"
        # A copy stands where the original does, and is not two-phase, on every major.
        f"  fix: SELECT pg_copy_logical_replication_slot({name}, {copy}); SELECT pg_drop_replication_slot({name}); "
        f"SELECT pg_copy_logical_replication_slot({copy}, {name}); SELECT pg_drop_replication_slot({copy});"
    )


def create_slot(cursor: Any, settings: SlotSettings) -> Lsn | None:
    """Make the slot over a replication connection; ``None`` if another producer has just made it.

    Source: manual, section 54.4, CREATE_REPLICATION_SLOT. A temporary slot lives as long as the connection.

    Returns:
        The consistent point: what is committed after it is streamed.
    """
    command = sql.SQL("CREATE_REPLICATION_SLOT {} {} LOGICAL {} {}").format(
        sql.Identifier(settings.name),
        sql.SQL("" if settings.durable else "TEMPORARY"),
        sql.Identifier(PLUGIN),
        # The options in parentheses came with Postgres 15, failover with 17.
        sql.SQL("(SNAPSHOT 'nothing', FAILOVER true)" if settings.failover else "NOEXPORT_SNAPSHOT"),
    )
    try:
        cursor.execute(command)
        _, consistent_point, *_ = cursor.fetchone()
    except psycopg2.Error as error:
        if error.pgcode == errorcodes.DUPLICATE_OBJECT and settings.durable:
            return None
        raise explain_slot_error(error, settings) from error
    return Lsn.parse(consistent_point)
