"""Taking over the position in the broker, when the slot has been taken over (``exactly_once_enqueue``)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from walex_celery.broker import Publisher
from walex_celery.pipeline.delivery import Delivery
from walex_celery.pipeline.enqueued import Enqueued, EnqueuedPosition, enqueued_of
from walex_celery.postgres.catalog import Catalog
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.timeline import Timelines
from walex_celery.sources.protocol import ChangeStream

logger = logging.getLogger("walex_celery.takeover")


def position_key(system_identifier: int, slot: str, spool: str | None) -> str:
    """Where the position is stored in the broker: one for each slot, or for each spool that it is read through.

    What waits in a spool is older than what another one may have had processed: their positions can't be compared.
    """
    key = f"walex:{system_identifier}:{slot}"
    return key if spool is None else f"{key}:{spool}"


def take_over_for(
    stream: ChangeStream, slot: str, catalog: Catalog, publisher: Publisher, delivery: Delivery
) -> Enqueued:
    """Take over the position of a stream that was just started; see :func:`take_over`.

    Args:
        stream: of which no other producer reads the slot.
        slot: its name.
        catalog: of the database, to be asked how far its WAL goes.
        publisher, delivery: to the broker.
    """
    key = position_key(stream.cluster.system_identifier, slot, stream.scope)
    timelines = stream.cluster.timelines
    if stream.scope is not None:
        # A spool is of one history, and Postgres may be unreachable: it is not asked how far that goes.
        return take_over(publisher, delivery.deliver, key, timelines, _no_limit)
    return take_over(publisher, delivery.deliver, key, timelines, None if stream.created else catalog.wal_lsn)


def _no_limit() -> Lsn:
    return Lsn(2**64 - 1)


def take_over(
    publisher: Publisher,
    deliver: Callable[[Callable[[], object]], object],
    key: str,
    timelines: Timelines,
    wal_lsn: Callable[[], Lsn] | None,
) -> Enqueued:
    """Make the position ours, so that whoever had it is refused, and say what is in the broker already.

    Args:
        publisher: nothing that it has is needed any more.
        deliver: does a step with the broker, however long that is away.
        key: what :func:`position_key` gave.
        timelines: the history of what follows.
        wal_lsn: how far the server's WAL can be; ``None`` for a slot made just now, before which there is nothing.

    Raises:
        PostgresUnavailable: it can't be asked where it is.
    """
    taken: list[int | None] = []
    deliver(lambda: taken.append(publisher.take_over(key)))
    stored = taken[-1]
    if stored is None:
        logger.info("exactly once: nothing is stored under %r yet", key)
        return Enqueued(timelines)
    position = EnqueuedPosition.unpack(stored)
    enqueued = enqueued_of(position, timelines)
    if wal_lsn is None:
        why = "the slot was made anew"
    elif enqueued is None:
        why = f"it is of timeline {position.timeline}, and Postgres is on {timelines.current}, which never was on that"
    elif enqueued.position.lsn > wal_lsn():
        why = "Postgres is behind it: it was restored from a copy"
    else:
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
    deliver(publisher.reset_position)
    return Enqueued(timelines)
