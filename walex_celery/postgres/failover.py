"""Failover slots: standby servers keep a copy of the slot, so the promoted one has it (Postgres 17 and newer).

Source: manual, section 47.2.3 "Replication Slot Synchronization", and 54.4 for the commands.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg2
from psycopg2 import sql

from walex_celery.errors import PostgresUnavailable, SetupError, SlotLost
from walex_celery.postgres.errors import explain_slot_error
from walex_celery.postgres.parameters import ConnectionSettings, SlotSettings
from walex_celery.postgres.server import Server
from walex_celery.postgres.slot import Slot
from walex_celery.postgres.timeline import Cluster

_FAILOVER_VERSION: Final = 170000


def check_failover(server: Server, slot: Slot | None, settings: SlotSettings) -> None:
    """Check that *server* is the one to read from, and has failover slots if the settings ask for one.

    Raises:
        SetupError: it is older than failover slots.
        PostgresUnavailable: it is a standby server, whose copy of the slot can't be read before it is promoted.
    """
    if settings.failover and server.version < _FAILOVER_VERSION:
        raise SetupError(
            f"failover=True needs Postgres {_FAILOVER_VERSION // 10000} or newer; the server at "
            f"{settings.connection.address()} is {server.version // 10000}\n"
            "  fix: set failover=False, or upgrade Postgres"
        )
    if server.in_recovery and (settings.failover or (slot is not None and slot.synced)):
        raise PostgresUnavailable(
            f"the server at {settings.connection.address()} is a standby: slot {settings.name!r} can't be read there "
            "before it is promoted. Name the primary in hostname= too, as in hostname='a,b'"
        )


def check_cluster(cluster: Cluster, met: Cluster | None, settings: ConnectionSettings) -> None:
    """Check that this is not the old primary, started again after another server was promoted.

    Args:
        cluster: the server that was reached.
        met: the last one that was read from.
        settings: for the error.

    Raises:
        PostgresUnavailable: it is on an older timeline than what has been read before.
    """
    if met is None or cluster.system_identifier != met.system_identifier:
        return
    found, read = cluster.timelines.current, met.timelines.current
    if found < read:
        raise PostgresUnavailable(
            f"the server at {settings.address()} is on timeline {found}, and timeline {read} has been read: an old "
            "primary that came back after a failover? Its changes are not those of the new one. Shut it down, or "
            "take it out of hostname=; if you mean to go back to it, start the producer again"
        )


def slot_not_synchronized(slot: str) -> SlotLost:
    """The error for a promoted server that does not have the slot."""
    return SlotLost(
        f"replication slot {slot!r} is not on the server that was promoted: the standby had no copy of it. What was "
        "committed between the last task and the producer's next start is lost to this instance\n"
        "  fix: start the producer again, which makes the slot, and backfill what came between; for the next time set "
        "failover=True here, and sync_replication_slots = on on the standby servers"
    )


def enable_failover(cursor: Any, settings: SlotSettings) -> None:
    """Have standby servers keep a copy of the slot, which must not be in use.

    Raises:
        SlotInUse, SetupError: what :func:`explain_slot_error` makes of a failure.
    """
    command = sql.SQL("ALTER_REPLICATION_SLOT {} (FAILOVER true)").format(sql.Identifier(settings.name))
    try:
        cursor.execute(command)
    except psycopg2.Error as error:
        raise explain_slot_error(error, settings) from error
