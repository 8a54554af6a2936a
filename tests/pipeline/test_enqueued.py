"""Which events are in the broker already, by the position stored with them (exactly_once_enqueue)."""

from __future__ import annotations

import pytest

from tests import messages as m
from tests.pipeline.test_assembler import USERS, USERS_RELATION, Listener, on
from walex_celery import Lsn
from walex_celery.pipeline.assembler import Chunk
from walex_celery.pipeline.enqueued import Enqueued, EnqueuedPosition, enqueued_of
from walex_celery.postgres.timeline import Switch, Timelines
from walex_celery.sources.history import Landmark

PUBLICATIONS = 7
PROMOTED = Timelines(2, (Switch(1, Lsn(300)),))


def chunk_at(lsn: int, rows: int = 3) -> Chunk:
    """A transaction's, whose commit record begins there."""
    inserts = [m.insert(USERS, b"%d" % number, None) for number in range(rows)]
    (chunk,) = Listener(on("on_event")).feed(m.begin(lsn), USERS_RELATION, *inserts, m.commit())
    return chunk


def message_at(lsn: int) -> tuple[bytes, Chunk]:
    """A message outside of transactions, whose record ends there."""
    payload = m.message("audit", b"seen", transactional=False, lsn=lsn)
    (chunk,) = Listener(on("on_message")).feed(payload)
    return payload, chunk


def new_at(enqueued: Enqueued, lsn: int) -> list[int]:
    return [routed.event.index for routed in enqueued.new_of(chunk_at(lsn))]


def test_what_is_new_comes_after_the_position() -> None:
    enqueued = Enqueued(Timelines(), PUBLICATIONS, 300, 2)

    assert [new_at(enqueued, lsn) for lsn in (200, 300, 400)] == [[], [2], [0, 1, 2]]


def test_the_position_never_goes_back() -> None:
    """Postgres sends again what was not acknowledged."""
    enqueued = Enqueued(Timelines(), PUBLICATIONS)
    for lsn in (200, 300, 200):
        enqueued.added(chunk_at(lsn))
    position = enqueued.packed()

    assert enqueued.position == EnqueuedPosition(1, Lsn(300), 3)
    assert EnqueuedPosition.unpack(position) == enqueued.position
    assert position.landmark == str(Landmark.of(m.begin(300), PUBLICATIONS))


def test_a_message_outside_of_transactions_is_a_landmark_of_its_own() -> None:
    """The commit record of the next transaction may begin where it ends."""
    payload, chunk = message_at(300)
    enqueued = Enqueued(Timelines(), PUBLICATIONS)
    enqueued.added(chunk)

    assert enqueued.position == EnqueuedPosition(1, Lsn(300), 0)
    assert enqueued.packed().landmark == str(Landmark.of(payload, PUBLICATIONS))
    assert enqueued.new_of(chunk) == []
    assert new_at(enqueued, 300) == [0, 1, 2]


@pytest.mark.parametrize(
    ("stored", "kept"),
    [
        # What both timelines have.
        (EnqueuedPosition(1, Lsn(299), 2), EnqueuedPosition(1, Lsn(299), 2)),
        (EnqueuedPosition(2, Lsn(300), 2), EnqueuedPosition(2, Lsn(300), 2)),
        # What the old primary had beyond the switch is not part of this history: others are at its positions.
        (EnqueuedPosition(1, Lsn(300), 2), EnqueuedPosition(2, Lsn(300), 0)),
        (EnqueuedPosition(1, Lsn(900), 2), EnqueuedPosition(2, Lsn(300), 0)),
        (EnqueuedPosition(3, Lsn(900), 2), None),
    ],
)
def test_after_a_promotion_a_position_counts_up_to_the_switch(
    stored: EnqueuedPosition, kept: EnqueuedPosition | None
) -> None:
    enqueued = enqueued_of(stored, "", PROMOTED, PUBLICATIONS)

    assert (enqueued and enqueued.position) == kept
