"""Which events of the stream have had their tasks enqueued, by the position that is stored with them in the broker.

Postgres sends again what was not acknowledged. Tasks at or below the stored position are in the broker already, so
they are not added a second time (``exactly_once_enqueue``); batch handlers do run again.
"""

from __future__ import annotations

from typing import NamedTuple

from walex_celery.events.event import Event
from walex_celery.pipeline.assembler import Chunk, RoutedEvent
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.timeline import Timelines

_MASK_32 = (1 << 32) - 1
_MASK_64 = (1 << 64) - 1


class EnqueuedPosition(NamedTuple):
    """A place in the stream: an event, and all before it.

    Attributes:
        timeline: that *lsn* is of.
        lsn: of the transaction's commit, or of a message outside of transactions.
        order: within it: the event's index plus one. A message outside of transactions has 0, for its LSN is its
            record's end, where the commit record of the next transaction may begin.
    """

    timeline: int
    lsn: Lsn
    order: int

    def pack(self) -> int:
        """As one integer, that grows as the stream goes on.

        >>> EnqueuedPosition.unpack(EnqueuedPosition(2, Lsn(5), 7).pack())
        EnqueuedPosition(timeline=2, lsn=Lsn('0/5'), order=7)
        """
        return self.timeline << 96 | self.lsn << 32 | self.order

    @classmethod
    def unpack(cls, packed: int) -> EnqueuedPosition:
        """The position that :meth:`pack` made *packed* of."""
        return cls(packed >> 96, Lsn(packed >> 32 & _MASK_64), packed & _MASK_32)


class Enqueued:
    """How far the tasks of a history have been enqueued.

    Args:
        timelines: the history.
        lsn: everything before it is in the broker.
        order: and of the transaction there, everything up to here.
    """

    def __init__(self, timelines: Timelines, lsn: int = 0, order: int = 0) -> None:
        self._timelines = timelines
        self._lsn = lsn
        self._order = order

    @property
    def position(self) -> EnqueuedPosition:
        """What is to be stored with the tasks that were added so far."""
        return EnqueuedPosition(self._timelines.of(self._lsn), Lsn(self._lsn), self._order)

    def new_of(self, chunk: Chunk) -> list[RoutedEvent]:
        """The events of *chunk* whose tasks are not in the broker."""
        lsn = chunk.context.position
        if lsn > self._lsn:
            return chunk.routed
        if lsn < self._lsn:
            return []
        return [routed for routed in chunk.routed if _order(routed.event) > self._order]

    def added(self, chunk: Chunk) -> None:
        """The tasks of *chunk* are among those that go to the broker next."""
        last = chunk.context.position, _order(chunk.routed[-1].event)
        self._lsn, self._order = max((self._lsn, self._order), last)


def enqueued_of(position: EnqueuedPosition, timelines: Timelines) -> Enqueued | None:
    """What *position*, stored by an earlier producer, says about a history; ``None`` if it is of another one."""
    if timelines.of(position.lsn) == position.timeline:
        return Enqueued(timelines, position.lsn, position.order)
    for switch in timelines.switches:
        if switch.timeline == position.timeline:
            # What the old primary had beyond it is not part of this history.
            return Enqueued(timelines, switch.lsn)
    return None


def _order(event: Event) -> int:
    return event.index + 1 & _MASK_32
