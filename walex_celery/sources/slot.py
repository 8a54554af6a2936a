"""The replication slot as a source: what Postgres sends goes straight into the pipeline."""

from __future__ import annotations

import logging
import threading
from typing import Final

from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.opening import Opened, Read, open_stream
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.stream import StreamMessage
from walex_celery.retry.loop import HANDOVER_SECONDS
from walex_celery.sources.history import GONE_BACK, Landmark, OtherHistory, Search, checksum_of, newest_of
from walex_celery.sources.protocol import Pipe, Slice
from walex_celery.telemetry.activity import Activity, Doing

# The producer's logger: whoever filters its lines gets these too.
logger = logging.getLogger("walex_celery.producer")


class Memory:
    """What a source knows of its slot from earlier connections.

    Args:
        slot: its name.

    Attributes:
        newest: what was read last that can be a :class:`~walex_celery.sources.history.Landmark`.
        reported_lsn: nothing beyond this has been acknowledged to Postgres.
        starts_over: whether Postgres has gone back, so that nothing else here counts.
    """

    def __init__(self, slot: str) -> None:
        self._slot = slot
        self._publications = 0
        self.newest: bytes | None = None
        self.reported_lsn = Lsn(0)
        self.starts_over = False

    def read_on(self, publications: int) -> None:
        """The next connection reads *publications*."""
        if publications != self._publications:
            # What was read last need not be published by these.
            self.newest = None
        self._publications = publications

    @property
    def landmark(self) -> Landmark | None:
        """What must come again, or be confirmed, if the history is the same."""
        return None if self.newest is None else Landmark.of(self.newest, self._publications)

    def is_comparable(self, landmark: Landmark) -> bool:
        """Whether *landmark* was published by what is read now."""
        return landmark.publications == self._publications

    def compare(self, opened: Opened, done: Lsn) -> None:
        """Warn if the server has gone back, or if its slot was moved by someone else.

        Args:
            opened: the connection to it.
            done: everything up to here is done, of what was read before.
        """
        slot, known = opened.slot, max(done, self.reported_lsn)
        if slot is None or self.starts_over:
            return
        # A standby server may not have replayed yet what it had before a restart.
        if slot.wal_lsn is not None and slot.wal_lsn < known and not opened.server.in_recovery:
            self.start_over(f"it has written up to {slot.wal_lsn}, and was read up to {known} before")
        else:
            warn_if_moved(slot.name, slot.confirmed_flush_lsn, known)

    def start_over(self, why: str) -> None:
        """Forget everything: Postgres has gone back."""
        self.newest = None
        self.reported_lsn = Lsn(0)
        self.starts_over = True
        logger.warning(
            "%s: %s. Positions that were passed before belong to other transactions now, so slot %s is read from its "
            "own position. What the copy has may come again, with the same task ids; what it does not have was "
            "processed, and is gone from the database\n"
            "  fix: the producer needs none. Next time restore to a new timeline (a recovery.signal file), so that no "
            "task id is used twice",
            GONE_BACK,
            why,
            self._slot,
            extra={"slot": self._slot},
        )


def warn_if_moved(slot: str, confirmed: Lsn | None, known: Lsn) -> None:
    """Warn of a gap: the slot stands at *confirmed*, beyond all that was acknowledged."""
    if known and confirmed is not None and confirmed > known:
        logger.warning(
            "slot %s was moved, or dropped and made again, since it was last read: it stands at %s, and only what is "
            "up to %s had been acknowledged. What was committed between the two is not read\n"
            "  fix: unless another producer has read it, backfill what was committed there",
            slot,
            confirmed,
            known,
            extra={"lsn": str(known), "slot": slot},
        )


class SlotStream:
    """One connection to the slot; see :class:`~walex_celery.sources.protocol.ChangeStream`."""

    scope: Final = None
    is_restartable: Final = False

    def __init__(
        self,
        opened: Opened,
        memory: Memory,
        *,
        durable: bool,
        activity: Activity,
        streaming: threading.Event,
    ) -> None:
        self.server = opened.server
        self.cluster = opened.cluster
        self.created = False
        self.starts_over = memory.starts_over
        self._slot = opened.slot
        self._stream = opened.stream
        self._memory = memory
        self._durable = durable
        self._activity = activity
        self._streaming = streaming
        self._search: Search | None = None
        #: Until something is acknowledged, that is where the slot stands: the lag is measured from there.
        self._slot_lsn = (opened.slot.confirmed_flush_lsn if opened.slot is not None else None) or Lsn(0)

    def start(self, done: Lsn) -> None:
        """Make the slot where there is none, and stream from *done* or from the slot's own position."""
        if self._slot is None:
            with self._activity.during(Doing.CREATING_SLOT):
                created_at = self._stream.create_slot()
            self.created = created_at is not None
            self._slot_lsn = created_at or self._slot_lsn
        # A temporary slot is new: what was done before says nothing of it.
        position = done if self._durable else Lsn(0)
        landmark = self._memory.landmark
        if landmark is not None and self._sends(landmark):
            # Postgres would skip what is before *done* without a look at its history.
            self._search = Search(position, landmark, describes=True)
            position = Lsn(0)
        self._stream.start(position)

    def _sends(self, landmark: Landmark) -> bool:
        """Whether the slot sends *landmark*, if the history is its own."""
        return self._slot is not None and self._durable and landmark.follows(self._slot_lsn)

    def expect(self, landmark: str) -> None:
        """Check for a landmark of which something is stored elsewhere that everything up to it is done."""
        found = Landmark.parse(landmark)
        if found is not None and self._memory.is_comparable(found) and self._sends(found):
            self._search = self._search or Search(describes=True)
            self._search.landmarks.append(found)

    def begin(self, pipe: Pipe) -> None:
        """From now on the slot is being streamed."""
        self._memory.starts_over = False
        self._streaming.set()

    def read(self, *, pending: bool, idle: bool, timeout: float, to_boundary: bool) -> Slice:
        """The payloads that are ready."""
        stream = self._stream
        stream.stop_at_boundary = to_boundary
        self._acknowledge_idle(idle)
        if self._search is None:
            payloads = stream.read_payloads(pending=pending, timeout=timeout)
            count = len(payloads)
        else:
            count, messages = self._read_and_search(self._search, pending=pending, timeout=timeout)
            payloads = [message.payload for message in messages]
        if not count:
            self._acknowledge_idle(idle)
        elif (newest := newest_of(payloads)) is not None:
            self._memory.newest = newest
        return Slice(payloads, count, count > 0, stream.needs_confirmation)

    def read_messages(
        self, *, pending: bool, idle: bool, timeout: float, to_boundary: bool
    ) -> list[StreamMessage]:
        """As :meth:`read`, with the messages' positions: for a middleware."""
        self._stream.stop_at_boundary = to_boundary
        self._acknowledge_idle(idle)
        if self._search is None:
            messages = self._stream.read(pending=pending, timeout=timeout)
        else:
            _, messages = self._read_and_search(self._search, pending=pending, timeout=timeout)
        if not messages:
            self._acknowledge_idle(idle)
        return messages

    def _read_and_search(
        self, search: Search, *, pending: bool, timeout: float
    ) -> tuple[int, list[StreamMessage]]:
        """How many messages were ready, and those that are new."""
        messages = self._stream.read(pending=pending, timeout=timeout)
        try:
            new = search.new_of(messages, self._stream.wal_end)
        except OtherHistory as error:
            self._memory.start_over(str(error))
            raise
        if search.is_over:
            self._search = None
        return len(messages), new

    @property
    def _may_acknowledge(self) -> bool:
        return self._search is None or not self._search.landmarks

    def _acknowledge_idle(self, idle: bool) -> None:
        if idle and self._may_acknowledge:
            # Promise 5: WAL that held nothing for us need not be kept.
            self._stream.acknowledge(self._stream.wal_end, now=True)

    @property
    def needs_confirmation(self) -> bool:
        """Whether nothing more may be read until all that was read is confirmed."""
        return self._stream.needs_confirmation

    @property
    def acknowledged_lsn(self) -> Lsn:
        """What Postgres may forget, as far as is known."""
        return max(self._stream.acknowledged_lsn, self._slot_lsn)

    @property
    def reported_lsn(self) -> Lsn:
        """Nothing beyond this has been acknowledged to Postgres."""
        return self._memory.reported_lsn

    def acknowledge(self, lsn: Lsn, *, now: bool) -> None:
        """Acknowledge everything up to *lsn* to Postgres."""
        self._stream.check()
        if self._may_acknowledge:
            self._stream.acknowledge(lsn, now=now)

    def wake(self) -> None:
        """End a read that waits."""
        self._stream.wake()

    def close(self) -> None:
        """End the connection; a temporary slot goes with it."""
        self._streaming.clear()
        if not self._memory.starts_over:
            self._memory.reported_lsn = max(self._memory.reported_lsn, self._stream.reported_lsn)
        self._stream.close()


class SlotSource:
    """Connects to the slot; see :class:`~walex_celery.sources.protocol.ChangeSource`.

    Args:
        activity: of the producer's thread.
        streaming: set while the slot is being streamed.
    """

    #: A producer that was stopped or killed a moment ago has a backend that takes a moment to notice.
    handover_seconds: Final = HANDOVER_SECONDS
    activity: Final = None

    def __init__(self, activity: Activity, streaming: threading.Event) -> None:
        self._activity = activity
        self._streaming = streaming
        self._stream: SlotStream | None = None
        self._memory = Memory("")

    def note(self, payload: bytes) -> None:
        """*payload*, which can be a landmark, was processed: for a middleware, which may hold what was read."""
        self._memory.newest = payload

    def open(self, settings: SlotSettings, read: Read, done: Lsn) -> SlotStream:
        """Connect; nothing is streamed yet."""
        opened = open_stream(settings, read)
        if read != Read(settings.name, opened.cluster) or not settings.durable:
            # Of another slot, or of another timeline, on which positions have another meaning.
            self._memory = Memory(settings.name)
        else:
            self._memory.compare(opened, done)
        self._memory.read_on(checksum_of(settings.publications))
        self._stream = SlotStream(
            opened,
            self._memory,
            durable=settings.durable,
            activity=self._activity,
            streaming=self._streaming,
        )
        return self._stream

    def wake(self) -> None:
        """End a read that waits."""
        stream = self._stream
        if stream is not None:
            stream.wake()

    def stored(self) -> None:
        """Nothing is kept on the disk."""

    def close(self) -> None:
        """Nothing outlives its streams."""
