"""The replication slot as a source: what Postgres sends goes straight into the pipeline."""

from __future__ import annotations

import threading
from typing import Final

from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.opening import Opened, Read, open_stream
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.stream import StreamMessage
from walex_celery.retry.loop import HANDOVER_SECONDS
from walex_celery.sources.protocol import Pipe, Slice
from walex_celery.telemetry.activity import Activity, Doing


class SlotStream:
    """One connection to the slot; see :class:`~walex_celery.sources.protocol.ChangeStream`."""

    scope: Final = None
    is_restartable: Final = False

    def __init__(
        self, opened: Opened, *, durable: bool, activity: Activity, streaming: threading.Event
    ) -> None:
        self.server = opened.server
        self.cluster = opened.cluster
        self.created = False
        self._slot = opened.slot
        self._stream = opened.stream
        self._durable = durable
        self._activity = activity
        self._streaming = streaming
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
        self._stream.start(done if self._durable else Lsn(0))

    def begin(self, pipe: Pipe) -> None:
        """From now on the slot is being streamed."""
        self._streaming.set()

    def read(self, *, pending: bool, idle: bool, timeout: float, to_boundary: bool) -> Slice:
        """The payloads that are ready."""
        stream = self._stream
        stream.stop_at_boundary = to_boundary
        self._acknowledge_idle(idle)
        payloads = stream.read_payloads(pending=pending, timeout=timeout)
        if not payloads:
            self._acknowledge_idle(idle)
        return Slice(payloads, len(payloads), bool(payloads), stream.needs_confirmation)

    def read_messages(
        self, *, pending: bool, idle: bool, timeout: float, to_boundary: bool
    ) -> list[StreamMessage]:
        """As :meth:`read`, with the messages' positions: for a middleware."""
        self._stream.stop_at_boundary = to_boundary
        self._acknowledge_idle(idle)
        messages = self._stream.read(pending=pending, timeout=timeout)
        if not messages:
            self._acknowledge_idle(idle)
        return messages

    def _acknowledge_idle(self, idle: bool) -> None:
        if idle:
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

    def acknowledge(self, lsn: Lsn, *, now: bool) -> None:
        """Tell Postgres that everything up to *lsn* is done."""
        self._stream.check()
        self._stream.acknowledge(lsn, now=now)

    def wake(self) -> None:
        """End a read that waits."""
        self._stream.wake()

    def close(self) -> None:
        """End the connection; a temporary slot goes with it."""
        self._streaming.clear()
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

    def open(self, settings: SlotSettings, read: Read, done: Lsn) -> SlotStream:
        """Connect; nothing is streamed yet."""
        self._stream = SlotStream(
            open_stream(settings, read),
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
