"""Which events of the stream have had their tasks enqueued, by the position that is stored with them in the broker.

Postgres sends again what was not acknowledged. Tasks at or below the stored position are in the broker already, so
they are not added a second time (``exactly_once_enqueue``); batch handlers do run again.
"""

from __future__ import annotations

from typing import NamedTuple

from walex_celery.broker.position import Position
from walex_celery.events.event import Event
from walex_celery.events.row_event import Context
from walex_celery.pipeline.assembler import STANDALONE_INDEX, Chunk, RoutedEvent
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.timeline import Timelines
from walex_celery.sources.history import Landmark

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
        publications: what is read, see :func:`~walex_celery.sources.history.checksum_of`.
        lsn: everything before it is in the broker.
        order: and of the transaction there, everything up to here.
        landmark: what stands there.
    """

    def __init__(
        self, timelines: Timelines, publications: int = 0, lsn: int = 0, order: int = 0, landmark: str = ""
    ) -> None:
        self._timelines = timelines
        self._publications = publications
        self._lsn = lsn
        self._order = order
        # A landmark, or the context that it can be made of: positions are added more often than stored.
        self._at: str | Context = landmark

    @property
    def position(self) -> EnqueuedPosition:
        """What is to be stored with the tasks that were added so far."""
        return EnqueuedPosition(self._timelines.of(self._lsn), Lsn(self._lsn), self._order)

    def packed(self) -> Position:
        """The position, packed, and its landmark."""
        at = self._at
        if isinstance(at, Context):
            at = str(Landmark(Lsn(at.position), at.info.xid or 0, at.microseconds, self._publications))
        return Position(self.position.pack(), at)

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
        event = chunk.routed[-1].event
        last = chunk.context.position, _order(event)
        if last < (self._lsn, self._order):
            return
        self._lsn, self._order = last
        self._at = chunk.context
        if event.index == STANDALONE_INDEX:
            # Of its context only the position is its own.
            self._at = str(Landmark.of_message(last[0], event.name, event.content or b"", self._publications))


def enqueued_of(
    position: EnqueuedPosition, landmark: str, timelines: Timelines, publications: int
) -> Enqueued | None:
    """What *position*, stored by an earlier producer, says about a history; ``None`` if it is of another one."""
    if timelines.of(position.lsn) == position.timeline:
        return Enqueued(timelines, publications, position.lsn, position.order, landmark)
    for switch in timelines.switches:
        if switch.timeline == position.timeline:
            # What the old primary had beyond it is not part of this history.
            return Enqueued(timelines, publications, switch.lsn)
    return None


def _order(event: Event) -> int:
    return event.index + 1 & _MASK_32
