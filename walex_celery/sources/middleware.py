"""Message middleware: a user's callable between the stream and the processing, as in WalEx.

``message_middleware(message, app_name)`` gets each :class:`~walex_celery.StreamMessage`, in order, and hands it on, now
or later, from any thread, with :func:`process_message_sync` or :func:`process_message_async`. A position is
acknowledged to Postgres when its messages have come through processing; or at once, when the middleware returns
:data:`STORED`: it is then responsible for them itself.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from walex_celery.errors import MiddlewareError
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.opening import Read
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.server import Server
from walex_celery.postgres.stream import StreamMessage
from walex_celery.postgres.timeline import Cluster
from walex_celery.sources.history import newest_of
from walex_celery.sources.inbox import Inbox
from walex_celery.sources.ledger import Ledger
from walex_celery.sources.protocol import Pipe, Slice
from walex_celery.sources.slot import SlotSource, SlotStream
from walex_celery.telemetry.activity import Activity, Doing


class _Stored(enum.Enum):
    STORED = "stored"


#: What a middleware returns to say: this message is safe with me, Postgres may forget it.
STORED: Final = _Stored.STORED


class Processor(Protocol):
    """What takes the messages that a middleware hands on."""

    def process_async(self, message: StreamMessage) -> None:
        """Queue *message* for processing."""

    def process_sync(self, message: StreamMessage) -> None:
        """Process *message*, and return when that is done."""


#: The producers that run in this process, by name; ``None`` for one without a middleware.
_running: dict[str, Processor | None] = {}
_lock = threading.Lock()


def register(name: str, processor: Processor | None = None) -> None:
    """Claim *name* for a producer of this process; what a middleware hands on to it goes to *processor*.

    Raises:
        MiddlewareError: another one has it.
    """
    with _lock:
        if name in _running:
            raise MiddlewareError(
                f"a producer named {name!r} runs in this process already; give this one another name="
            )
        _running[name] = processor


def serve(name: str, processor: Processor) -> None:
    """Have what is handed on to the producer *name* taken by *processor* from now on."""
    with _lock:
        _running[name] = processor


def unregister(name: str) -> None:
    """Release the name of a producer that has stopped."""
    with _lock:
        _running.pop(name, None)


def _processor(app_name: str) -> Processor:
    try:
        processor = _running[app_name]
    except KeyError:
        running = ", ".join(map(repr, sorted(_running))) or "none"
        raise MiddlewareError(
            f"no producer named {app_name!r} runs in this process (running: {running})"
        ) from None
    if processor is None:
        raise MiddlewareError(
            f"the producer {app_name!r} has no message_middleware of this process, so nothing can be handed on to it"
        )
    return processor


def process_message_async(message: StreamMessage, app_name: str) -> None:
    """Queue *message* for processing and return; waits while too much is queued, if called from another thread.

    Raises:
        MiddlewareError: no producer of that name, with a middleware, runs in this process.
    """
    _processor(app_name).process_async(message)


def process_message_sync(message: StreamMessage, app_name: str) -> None:
    """Process *message* and return when it is done: for a Commit, when handlers ran and the broker confirmed.

    Raises:
        MiddlewareError: no producer of that name, with a middleware, runs in this process; or it stopped meanwhile.
    """
    _processor(app_name).process_sync(message)


class MiddlewareStream:
    """One connection to the slot, read through the middleware.

    See :class:`~walex_celery.sources.protocol.ChangeStream`.
    """

    scope: Final = None
    is_restartable: Final = True

    def __init__(self, stream: SlotStream, ledger: Ledger, source: MiddlewareSource) -> None:
        self._stream = stream
        self._ledger = ledger
        self._source = source

    @property
    def cluster(self) -> Cluster:
        """What the changes are of."""
        return self._stream.cluster

    @property
    def server(self) -> Server:
        """What the slot is streamed from."""
        return self._stream.server

    @property
    def created(self) -> bool:
        """Whether the slot was made by :meth:`start`."""
        return self._stream.created

    @property
    def starts_over(self) -> bool:
        """Whether Postgres has gone back."""
        return self._stream.starts_over

    @property
    def acknowledged_lsn(self) -> Lsn:
        """What Postgres may forget."""
        return self._stream.acknowledged_lsn

    @property
    def reported_lsn(self) -> Lsn:
        """Up to where Postgres may forget."""
        return self._stream.reported_lsn

    def start(self, done: Lsn) -> None:
        """Stream from the slot's own position: what the middleware still holds of the rest may never come through."""
        self._stream.start(Lsn(0))

    def expect(self, landmark: str) -> None:
        """Check for a landmark that is stored elsewhere."""
        self._stream.expect(landmark)

    def begin(self, pipe: Pipe) -> None:
        """From now on what the middleware hands on goes into *pipe*."""
        self._source.lead_into(pipe)
        self._stream.begin(pipe)

    def read(self, *, pending: bool, idle: bool, timeout: float, to_boundary: bool) -> Slice:
        """Read a slice and give it to the middleware; process what that handed on."""
        ledger = self._ledger
        messages = self._stream.read_messages(
            pending=ledger.outstanding,
            idle=idle and not ledger.outstanding and not ledger.in_transaction,
            timeout=timeout,
            to_boundary=to_boundary,
        )
        handed_on = self._source.hand(messages)
        return Slice([], len(messages), bool(messages) or handed_on, self._stream.needs_confirmation)

    def acknowledge(self, lsn: Lsn, *, now: bool) -> None:
        """Acknowledge what was handed over before, and is done, up to *lsn*.

        Raises:
            MiddlewareError: the middleware lost or reordered messages.
        """
        self._ledger.confirm(lsn)
        self._stream.acknowledge(self._ledger.safe_lsn, now=now)

    def close(self) -> None:
        """End the connection."""
        self._stream.close()


class MiddlewareSource:
    """The slot, through a user's callable; see :class:`~walex_celery.sources.protocol.ChangeSource`.

    Args:
        name: of the producer.
        middleware: gives the callable in force.
        activity: of the producer's thread, in which the callable runs, and in which this is made.
        streaming: set while the slot is being streamed.
        stopping: set when the producer is to stop.
    """

    activity: Final = None

    def __init__(
        self,
        name: str,
        middleware: Callable[[], Callable[..., Any]],
        *,
        activity: Activity,
        streaming: threading.Event,
        stopping: threading.Event,
    ) -> None:
        self._name = name
        self._middleware = middleware
        self._activity = activity
        self._stopping = stopping
        self._slot = SlotSource(activity, streaming)
        self._inbox = Inbox(self._slot.wake)
        self._cluster: Cluster | None = None
        # The ledger outlives a connection, as the middleware's own queue does.
        self._ledger: Ledger | None = None
        self._pipe: Pipe | None = None
        serve(name, self)

    @property
    def handover_seconds(self) -> float:
        """As for the slot alone."""
        return self._slot.handover_seconds

    def open(self, settings: SlotSettings, read: Read, done: Lsn) -> MiddlewareStream:
        """Connect; nothing is streamed yet."""
        stream = self._slot.open(settings, read, done)
        if (
            self._ledger is None
            or not settings.durable
            or stream.cluster != self._cluster
            or stream.starts_over
        ):
            self._ledger = Ledger()
        else:
            self._ledger.reconnect()
        self._cluster = stream.cluster
        return MiddlewareStream(stream, self._ledger, self)

    def lead_into(self, pipe: Pipe) -> None:
        """Process what the middleware hands on by *pipe* from now on."""
        self._pipe = pipe

    def hand(self, messages: list[StreamMessage]) -> bool:
        """Give *messages* to the middleware, and process what it hands on; whether that was anything."""
        ledger = self._ledger
        assert ledger is not None
        handed_on = False
        for message in messages:
            ledger.hand(message)
            with self._activity.during(Doing.MIDDLEWARE):
                stored = self._middleware()(message, self._name) is STORED
            if stored:
                ledger.store(message)
                self._note(message)
            handed_on |= self._drain()
            if self._stopping.is_set():
                break
        return self._drain() or handed_on

    def _drain(self) -> bool:
        assert self._pipe is not None
        return self._inbox.drain(self._process, self._pipe.settle)

    def _process(self, message: StreamMessage) -> None:
        assert self._pipe is not None
        assert self._ledger is not None
        self._pipe.process(message.payload)
        self._ledger.process(message)
        self._note(message)

    def _note(self, message: StreamMessage) -> None:
        # Not what was read last: the middleware may hold much of it for long.
        if newest_of((message.payload,)) is not None:
            self._slot.note(message.payload)

    def process_async(self, message: StreamMessage) -> None:
        """Queue a message that the middleware hands on."""
        self._inbox.put(message)

    def process_sync(self, message: StreamMessage) -> None:
        """Process a message that the middleware hands on, and return when that is done."""
        ticket = self._inbox.put(message, awaited=True)
        if self._inbox.is_own_thread:
            self._drain()
        else:
            self._inbox.wait(ticket)

    def wake(self) -> None:
        """End a read that waits."""
        self._slot.wake()

    def stored(self) -> None:
        """Nothing is kept on the disk by us."""

    def close(self) -> None:
        """Take nothing any more, and release who waits."""
        self._inbox.close()
