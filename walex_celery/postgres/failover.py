"""Failover slots: a standby server keeps a copy of the slot, and whoever is promoted has it (Postgres 17 and newer).

Source: manual, section 47.2.3 "Replication Slot Synchronization", and 54.4 for the commands.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg2
from psycopg2 import sql

from walex_celery.errors import PostgresUnavailable, SetupError, SlotLost
from walex_celery.postgres.connection import explain_error
from walex_celery.postgres.slot import Server, Slot
from walex_celery.postgres.timeline import Cluster
from walex_celery.settings.model import WalExSettings

_FAILOVER_VERSION: Final = 170000


def check_failover(server: Server, slot: Slot | None, settings: WalExSettings) -> None:
    """That *server* is the one to read from, and can do what the setting ``failover`` asks.

    Raises:
        SetupError: it is older than failover slots.
        PostgresUnavailable: it is a standby server, whose copy of the slot can't be read before it is promoted.
    """
    if settings.failover and server.version < _FAILOVER_VERSION:
        raise SetupError(
            f"failover=True needs Postgres {_FAILOVER_VERSION // 10000} or newer; the server at "
            f"{settings.address()} is {server.version // 10000}\n  fix: set failover=False, or upgrade Postgres"
        )
    if server.in_recovery and (settings.failover or (slot is not None and slot.synced)):
        raise PostgresUnavailable(
            f"the server at {settings.address()} is a standby: slot {settings.slot!r} can't be read there before it is "
            "promoted. Let hostname= name the primary too, as in hostname='a,b'"
        )


def check_cluster(cluster: Cluster, met: Cluster | None, settings: WalExSettings) -> None:
    """That this is not the old primary, come back after another server was promoted.

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
            "primary that came back after a failover? What it holds is not what the new one goes on with. Shut it "
            "down, or take it out of hostname=; if going back was meant, start the producer anew"
        )


def slot_not_synchronized(slot: str) -> SlotLost:
    """The error for a promoted server that does not have the slot."""
    return SlotLost(
        f"replication slot {slot!r} is not on the server that was promoted: the standby had no copy of it. What was "
        "committed between the last task and the producer's new start is lost to this instance\n"
        "  fix: start the producer anew, which makes the slot, and backfill what came between; for the next time set "
        "failover=True here, and sync_replication_slots = on on the standby servers"
    )


def enable_failover(cursor: Any, settings: WalExSettings) -> None:
    """Let the standby servers have the slot, which nobody reads just now.

    Raises:
        SlotInUse, SetupError: as :func:`explain_error` has it.
    """
    command = sql.SQL("ALTER_REPLICATION_SLOT {} (FAILOVER true)").format(sql.Identifier(settings.slot))
    try:
        cursor.execute(command)
    except psycopg2.Error as error:
        raise explain_error(error, settings) from error
