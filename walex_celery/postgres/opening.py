"""From settings to a stream that can be started; everything is checked before the slot is touched."""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from psycopg2.extensions import connection as Connection

from walex_celery.postgres.connection import connect
from walex_celery.postgres.errors import slot_gone
from walex_celery.postgres.failover import check_cluster, check_failover, slot_not_synchronized
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.server import Server, check_prerequisites, inspect_server, synchronous_standby
from walex_celery.postgres.slot import Slot, check_slot, find_slot, newer_publications
from walex_celery.postgres.stream import ReplicationStream
from walex_celery.postgres.timeline import Cluster

logger = logging.getLogger("walex_celery.postgres.opening")

#: From this version on, the walsender skips changes from before a publication was made, without an error.
SKIPS_SILENTLY: Final = 180000


class Opened(NamedTuple):
    """A stream that is not started yet, the server and its cluster, and the slot if it exists."""

    stream: ReplicationStream
    server: Server
    cluster: Cluster
    slot: Slot | None


class Read(NamedTuple):
    """What this process has read before: the slot's name and the cluster. Empty and ``None`` at first."""

    slot: str = ""
    cluster: Cluster | None = None


def _warn_of_newer_publications(connection: Connection, settings: SlotSettings) -> None:
    names = ", ".join(map(repr, newer_publications(connection, settings)))
    if names:
        logger.warning(
            "publication %s was made or altered after the position from which slot %s is read, or not long before: "
            "Postgres %s skips what was committed before a publication was made, without an error\n"
            "  fix: if it was made after the slot, backfill what was committed in between; else nothing",
            names,
            settings.name,
            connection.server_version // 10000,
            extra={"slot": settings.name},
        )


def open_stream(settings: SlotSettings, read: Read) -> Opened:
    """Check the server and the slot, and connect.

    Args:
        settings: which slot.
        read: what was read before, which must still exist.

    Raises:
        SetupError: Postgres is not set up as the settings need it, or the slot that was read is gone.
        SlotInUse: another process reads the slot.
        PostgresUnavailable: the server can't be reached, or is not the one to read from now.
    """
    connection = connect(settings.connection)
    try:
        server = inspect_server(connection, settings.connection)
        slot = find_slot(connection, settings)
        check_failover(server, slot, settings)
        check_prerequisites(connection, settings)
        if slot is not None and server.version >= SKIPS_SILENTLY:
            _warn_of_newer_publications(connection, settings)
        if wrong := synchronous_standby(connection, settings.connection):
            logger.warning(
                "%s\n  fix: name the standby servers there instead, and SELECT pg_reload_conf()", wrong
            )
    finally:
        connection.close()
    stream = ReplicationStream(settings, server)
    try:
        cluster = stream.identify()
        check_cluster(cluster, read.cluster, settings.connection)
        if slot is not None:
            check_slot(slot, settings)
            if settings.failover and not slot.failover:
                stream.enable_failover()
        elif read.slot == settings.name and settings.durable:
            # It is not silently made again: what was committed meanwhile would be missing.
            if cluster == read.cluster or read.cluster is None:
                raise slot_gone(settings.name, "it was dropped while this producer ran")
            raise slot_not_synchronized(settings.name)
    except BaseException:
        stream.close()
        raise
    return Opened(stream, server, cluster, slot)
