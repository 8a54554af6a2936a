"""From settings to a stream that may be started: what must be right is looked at before the slot is touched."""

from __future__ import annotations

from typing import NamedTuple

from walex_celery.postgres.connection import connect, slot_gone
from walex_celery.postgres.failover import check_cluster, check_failover, slot_not_synchronized
from walex_celery.postgres.slot import (
    Server,
    Slot,
    check_prerequisites,
    check_slot,
    find_slot,
    inspect_server,
)
from walex_celery.postgres.stream import ReplicationStream
from walex_celery.postgres.timeline import Cluster
from walex_celery.settings.model import WalExSettings


class Opened(NamedTuple):
    """A stream that is not started, the server and its cluster, and the slot, if there is one already."""

    stream: ReplicationStream
    server: Server
    cluster: Cluster
    slot: Slot | None


class Read(NamedTuple):
    """What this process has read before: the slot's name, and the cluster; empty and ``None`` at first."""

    slot: str = ""
    cluster: Cluster | None = None


def open_stream(settings: WalExSettings, read: Read) -> Opened:
    """Look at the server and the slot, and connect.

    Args:
        settings: whose slot.
        read: what was read before, which must be there still.

    Raises:
        SetupError: Postgres is not set up for what the settings ask, or the slot that was read is gone.
        SlotInUse: another process reads the slot.
        PostgresUnavailable: it can't be reached, or is not the one to read from now.
    """
    connection = connect(settings)
    try:
        server = inspect_server(connection, settings)
        slot = find_slot(connection, settings)
        check_failover(server, slot, settings)
        check_prerequisites(connection, settings)
    finally:
        connection.close()
    stream = ReplicationStream(settings, server)
    try:
        cluster = stream.identify()
        check_cluster(cluster, read.cluster, settings)
        if slot is not None:
            check_slot(slot, settings)
            if settings.failover and not slot.failover:
                stream.enable_failover()
        elif read.slot == settings.slot and settings.durable_slot:
            # Never made anew in silence: what was committed meanwhile would be missing.
            if cluster == read.cluster or read.cluster is None:
                raise slot_gone(settings.slot, "it was dropped while this producer ran")
            raise slot_not_synchronized(settings.slot)
    except BaseException:
        stream.close()
        raise
    return Opened(stream, server, cluster, slot)
