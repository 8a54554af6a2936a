"""Taking over the position in the broker, when the slot has been taken over (``exactly_once_enqueue``)."""

from __future__ import annotations

import logging
from contextlib import suppress

from walex_celery.broker import Publisher
from walex_celery.broker.position import Position
from walex_celery.errors import WalExError
from walex_celery.pipeline.delivery import Delivery
from walex_celery.pipeline.enqueued import Enqueued, EnqueuedPosition, enqueued_of
from walex_celery.postgres.catalog import Catalog
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.timeline import Timelines
from walex_celery.sources.history import GONE_BACK, checksum_of
from walex_celery.sources.protocol import ChangeStream
from walex_celery.sources.slot import warn_if_moved

logger = logging.getLogger("walex_celery.takeover")


def position_key(system_identifier: int, slot: str, spool: str | None) -> str:
    """Where the position is stored in the broker: one for each slot, or for each spool that it is read through.

    What waits in a spool is older than what another one may have had processed: their positions can't be compared.
    """
    key = f"walex:{system_identifier}:{slot}"
    return key if spool is None else f"{key}:{spool}"


def leave(stream: ChangeStream, publisher: Publisher) -> None:
    """Leave to the next producer how far this one acknowledged, so that it can tell whether the slot was moved.

    Args:
        stream: the last one of this producer, closed.
        publisher: has taken over the position.
    """
    if stream.scope is None:
        # Without it less is noticed next time: no reason to fail.
        with suppress(WalExError):
            publisher.leave(f"{stream.cluster.timelines.current} {stream.reported_lsn}")


def _reported_lsn(note: str, timelines: Timelines) -> Lsn:
    """What :func:`leave` left; 0 if nothing, or on another timeline."""
    timeline, _, lsn = note.partition(" ")
    return Lsn.parse(lsn) if timeline == str(timelines.current) else Lsn(0)


def take_over(
    stream: ChangeStream, settings: SlotSettings, catalog: Catalog, publisher: Publisher, delivery: Delivery
) -> Enqueued:
    """Make the position ours, so that its previous owner is refused, and return what is in the broker already.

    Args:
        stream: was just started, so that no other producer reads the slot.
        settings: of the slot.
        catalog: of the database, to be asked how far its WAL goes.
        publisher: nothing that it has is needed any more.
        delivery: performs steps with the broker, however long that is unreachable.

    Raises:
        PostgresUnavailable: it can't be asked where it is.
    """
    key = position_key(stream.cluster.system_identifier, settings.name, stream.scope)
    timelines = stream.cluster.timelines
    publications = checksum_of(settings.publications)
    taken: list[Position | None] = []
    delivery.deliver(lambda: taken.append(publisher.take_over(key)))
    stored = taken[-1]
    if stored is None:
        logger.info("exactly once: nothing is stored under %r yet", key)
        return Enqueued(timelines, publications)
    position = EnqueuedPosition.unpack(stored)
    enqueued = enqueued_of(position, stored.landmark, timelines, publications)
    # A spool is of one history, and Postgres may be unreachable: it is not asked how far that goes.
    reads_slot = stream.scope is None
    if reads_slot:
        # Nothing has been acknowledged on this connection yet: that is where the slot stands.
        warn_if_moved(settings.name, stream.acknowledged_lsn, _reported_lsn(stored.note, timelines))
    if reads_slot and stream.created:
        why = "the slot was made again"
    elif enqueued is None:
        why = f"it is of timeline {position.timeline}, and Postgres is on {timelines.current}, which never was on that"
    elif stream.starts_over or (reads_slot and enqueued.position.lsn > catalog.wal_lsn()):
        why = f"{GONE_BACK}: it was restored from a copy"
    else:
        # Postgres may have written past it since it went back: only what stands there can tell.
        stream.expect(stored.landmark if enqueued.position == position else "")
        logger.info(
            "exactly once: what is up to %s is in the broker, and not enqueued again", enqueued.position.lsn
        )
        return enqueued
    logger.warning(
        "exactly once: the position %s stored under %r says nothing here: %s. Tasks that are in the broker may be "
        "enqueued again, with the same ids",
        position.lsn,
        key,
        why,
    )
    delivery.deliver(publisher.reset_position)
    return Enqueued(timelines, publications)
