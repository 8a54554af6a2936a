"""The producer: reads the stream, dispatches, confirms, acknowledges. The only file that knows all rooms.

The order is what keeps promise 1: batch handlers return, then the broker confirms the tasks, then Postgres is
told that it may forget. One batch is on its way to the broker while the next is read and decoded.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from walex_celery.app import WalEx
from walex_celery.broker import Publisher
from walex_celery.errors import (
    BrokerUnavailable,
    Fenced,
    HandlerError,
    WalExError,
)
from walex_celery.handlers.registry import Route
from walex_celery.pipeline.assembler import Assembler, Chunk, new_assembler
from walex_celery.pipeline.delivery import Delivery
from walex_celery.pipeline.dispatcher import Dispatcher
from walex_celery.pipeline.handler_runner import HandlerRunner, Stopped
from walex_celery.pipeline.planner import Planner
from walex_celery.pipeline.start_log import subscribed, tell_start, tell_weaknesses
from walex_celery.pipeline.table_plan import DatedPlan, TablePlan
from walex_celery.pipeline.takeover import position_key, take_over
from walex_celery.postgres.catalog import Catalog
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.opening import Read, open_stream
from walex_celery.postgres.pgoutput import Relation, Type
from walex_celery.postgres.slot import Server
from walex_celery.postgres.stream import ReplicationStream, StreamMessage
from walex_celery.postgres.timeline import Cluster
from walex_celery.retry.loop import HANDOVER_SECONDS, Retrying
from walex_celery.settings.model import CONNECTION_KEYS, PLACE_KEYS, WalExSettings
from walex_celery.sources.inbox import Inbox
from walex_celery.sources.middleware import STORED, Ledger, register, unregister
from walex_celery.sources.spool import Rewound, Spool, SpooledStream
from walex_celery.telemetry import report as status
from walex_celery.telemetry.activity import Activity, Doing
from walex_celery.telemetry.lag import MEASURE_SECONDS, Meter
from walex_celery.telemetry.progress import Progress
from walex_celery.telemetry.report import ProducerStatus
from walex_celery.telemetry.statistics import Statistics

if TYPE_CHECKING:
    from walex_celery.telemetry.tracing import Tracing

logger = logging.getLogger("walex_celery.producer")

_Stream: TypeAlias = ReplicationStream | SpooledStream

#: Seconds to wait for a message before looking around (log line, idle acknowledgement).
IDLE_SECONDS: Final = 1.0


def open_tracing(settings: WalExSettings, statistics: Statistics) -> Tracing | None:
    """Tracing, where OpenTelemetry is installed (extra ``otel``) and has a tracer provider; else nothing is traced."""
    try:
        from walex_celery.telemetry import tracing
    except ImportError as error:
        if error.name is None or not error.name.startswith("opentelemetry"):
            raise
        return None
    return tracing.Tracing(settings, statistics) if tracing.is_configured() else None


class _Reconnect(Exception):
    """The connection's settings changed: end this stream and connect anew."""


class Producer:
    """The one ordered producer of an application: :meth:`run` it until :meth:`stop`.

    Args:
        walex: the application.
        standby: wait for a durable slot that is in use, instead of raising SlotInUse.
    """

    def __init__(self, walex: WalEx, *, standby: bool = False) -> None:
        self._walex = walex
        self._standby = standby
        self._stopping = threading.Event()
        self._pausing = threading.Event()
        self._woken = threading.Event()
        self._change_waits = False
        self._prepared = False
        self._weaknesses_told = False
        #: To stop or to change something: looked at after each message, where an Event would take longer.
        self._asked = False
        self._stream: _Stream | None = None
        self._spooled: SpooledStream | None = None
        self._cluster: Cluster | None = None
        self._read = Read()
        #: What the slot had confirmed when it was last connected to.
        self._slot_lsn = Lsn(0)
        self._ledger: Ledger | None = None
        #: What it did since it was made.
        self.statistics = Statistics()
        #: What :meth:`run`'s thread is doing, and, with a spool, what the thread is that reads the slot.
        self.activity = Activity()
        self.intake_activity: Activity | None = None
        #: Set while the slot is being streamed.
        self.streaming = threading.Event()
        #: Everything up to here is done: handlers returned, the broker confirmed.
        self.confirmed_lsn = Lsn(0)

    def run(self) -> None:
        """Stream until :meth:`stop` is called; finish and acknowledge the batch in hand; return.

        Raises:
            ConfigurationError: a setting or handler is wrong; nothing was touched.
            SetupError: Postgres is not set up for what the settings ask.
            SlotInUse: another process reads the durable slot, and goes on doing so for 3 s.
            HandlerError: a batch handler raised, and halts it; its transaction is not acknowledged.
            RetryableError: Postgres or the broker stayed away for ``reconnect_timeout``, or the broker while
                stopping: then what was read last is not acknowledged, and comes again.
        """
        walex = self._walex
        self._settings = settings = walex.settings
        walex.import_modules()
        self._inbox = Inbox(self._wake)
        self._publisher = Publisher.open(
            walex.app,
            timeout_seconds=settings.publish_timeout,
            exactly_once=settings.exactly_once_enqueue,
            sender=self.node,
        )
        self._tracing = open_tracing(settings, self.statistics)
        self._runner = HandlerRunner(walex.app, settings, self.statistics, self.activity, self._stopping)
        self._dispatcher = Dispatcher(
            walex.app,
            self._publisher,
            settings.name,
            self.statistics,
            self.activity,
            self._tracing,
            self._runner,
        )
        self._delivery = Delivery(
            self._publisher,
            lambda: self._settings,
            self.statistics,
            self.activity,
            self._stopping,
            position=self._position,
            confirmed=self._on_confirmed,
        )
        self._progress = Progress(settings.log_interval)
        self._catalog = Catalog(settings)
        self._planner = Planner(settings, walex.handlers, self._catalog, self.statistics)
        self._assembler = self._new_assembler()
        self._meter = Meter(
            lambda: walex.settings,
            self._acknowledged,
            self._newest_waiting,
            self.statistics,
            min(MEASURE_SECONDS, settings.log_interval),
        )
        self._meter.start()
        self._prepared = True
        unlisten = walex.listen(self._on_change)
        registered = False
        try:
            # Last, when all that the middleware may call is there; and forgotten whatever happens next.
            register(settings.name, self)
            registered = True
            # A function that can't be sent is told before Postgres is asked anything.
            self._dispatcher.prepare(walex.handlers, 0)
            self._run_until_stopped()
            self._check_all_confirmed()
        finally:
            self.activity.begin(Doing.ENDED)
            if self._spooled is not None:
                self._spooled.close()
            unlisten()
            if registered:
                unregister(settings.name)
            self._meter.close()
            self._runner.close()
            if self._tracing is not None:
                self._tracing.close()
            self._inbox.close()
            self._publisher.close()
            self._catalog.close()

    def stop(self) -> None:
        """Ask :meth:`run` to finish; callable from any thread or signal handler."""
        self._stopping.set()
        self._asked = True
        self._wake()

    def pause(self) -> None:
        """Stop reading at the next transaction boundary, until :meth:`resume`; callable from any thread.

        What was read is delivered and acknowledged. The slot stays held: no other producer takes over. A spool goes
        on filling; its processing pauses.
        """
        self._pausing.set()
        self._wake()

    def resume(self) -> None:
        """Read on; callable from any thread."""
        self._pausing.clear()
        self._wake()

    @property
    def walex(self) -> WalEx:
        """The application."""
        return self._walex

    @property
    def node(self) -> str:
        """Its name in the remote-control mailbox and in Flower."""
        return status.node_name(self._walex.settings.name, standby=self._standby)

    def snapshot(self) -> ProducerStatus | None:
        """What it is doing and has done, without secrets; callable from any thread. ``None`` before :meth:`run`."""
        if not self._prepared:
            return None
        settings = self._settings
        statistics, meter, spool = self.statistics, self._meter, self._spooled
        doing, detail, seconds = self._doing()
        publisher = self._publisher
        return ProducerStatus(
            name=settings.name,
            node=self.node,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            version=status.own_version(),
            state=doing,
            state_detail=detail,
            state_seconds=seconds,
            started=statistics.started,
            slot=settings.slot,
            durable_slot=settings.durable_slot,
            server=settings.address(),
            publication=tuple(settings.publication),
            subscriptions=tuple(map(str, settings.subscriptions)),
            read_lsn=str(Lsn(self._assembler.end_lsn)),
            confirmed_lsn=str(self.confirmed_lsn),
            acknowledged_lsn=str(self._acknowledged() or Lsn(0)),
            lag=meter.lag,
            events_per_second=meter.rates.events,
            tasks_per_second=meter.rates.tasks,
            transactions_per_second=meter.rates.transactions,
            messages=statistics.messages,
            transactions=statistics.transactions,
            events=statistics.events,
            tasks=statistics.tasks,
            unconfirmed_tasks=publisher.unconfirmed_count,
            unconfirmed_bytes=publisher.unconfirmed_bytes,
            batches_in_flight=self._delivery.batches_in_flight,
            publish=status.durations(statistics.publish),
            handlers=status.handlers(
                statistics, [handler.name for handler in self._walex.handlers if handler.batch is not None]
            ),
            tables=status.tables(statistics),
            spool=None if spool is None else spool.status(),
            dead_letters=sum(count for _, count in statistics.dead_letters()),
            reconnects=max(0, statistics.connects - 1),
            broker=publisher.describe(),
        )

    def process_async(self, message: StreamMessage) -> None:
        """Queue a message that the middleware hands on (see ``middleware.py``)."""
        self._inbox.put(message)

    def process_sync(self, message: StreamMessage) -> None:
        """Process a message that the middleware hands on, and return when that is done."""
        ticket = self._inbox.put(message, awaited=True)
        if self._inbox.is_own_thread:
            self._inbox.drain(self._process_handed_on, self._settle)
        else:
            self._inbox.wait(ticket)

    def _on_change(self) -> None:
        self._change_waits = True
        self._asked = True
        self._wake()

    def _wake(self) -> None:
        self._woken.set()
        stream = self._stream
        if stream is not None:
            stream.wake()

    def _new_assembler(self) -> Assembler:
        return new_assembler(
            self._plan,
            self._message_plan,
            self._planner.message_source(),
            self._announce,
            restartable=self._middleware is not None,
        )

    # Looked up at each call: a reconnect brings a new planner, and an assembler may outlive it.

    def _plan(self, relation: Relation) -> TablePlan | DatedPlan | None:
        return self._planner.plan(relation)

    def _message_plan(self, prefix: str) -> Route:
        return self._planner.message_plan(prefix)

    def _announce(self, type: Type) -> None:
        self._catalog.announce(type)

    # Connections, one after the other.

    def _run_until_stopped(self) -> None:
        spooled = isinstance(self._settings.message_middleware, Spool)
        retrying = Retrying(
            self._stopping,
            self._settings.reconnect_timeout,
            standby=self._standby,
            activity=self.activity,
            # A spool's own thread waits for the slot; and its lock ends with the process that had it.
            handover_seconds=0 if spooled else HANDOVER_SECONDS,
        )
        retrying.run(partial(self._run_once, retrying))

    def _run_once(self, retrying: Retrying) -> None:
        self._adopt_settings()
        spool = self._settings.message_middleware
        try:
            if isinstance(spool, Spool):
                self._process_spool_once(spool, retrying)
            else:
                self._stream_once(retrying)
        except _Reconnect:
            logger.info("the connection's settings changed; connecting anew")
        except Rewound:
            pass
        except Fenced:
            self._forget_unconfirmed()
            raise

    def _forget_unconfirmed(self) -> None:
        """Another producer goes on from what the broker has: what is not known to be there is read again, or by it."""
        self._delivery.forget()
        self._ledger = None
        self._assembler = self._new_assembler()
        self._assembler.end_lsn = self.confirmed_lsn

    def _check_all_confirmed(self) -> None:
        """That a stop finished what was in hand."""
        count = self._publisher.unconfirmed_count
        if count:
            raise BrokerUnavailable(
                f"stopped with {count} tasks that the broker has not confirmed. Nothing is lost: what they are of is "
                "not acknowledged, and comes again, with the same ids, when a producer is started"
            )

    def _adopt_settings(self) -> None:
        """Go on with settings that changed while there was no connection: a new password mends it."""
        before, self._settings = self._settings, self._walex.settings
        self._leave(before)

    def _leave(self, before: WalExSettings) -> None:
        """Forget what was done, if it may have been in another database: it says nothing there."""
        if any(getattr(before, key) != getattr(self._settings, key) for key in PLACE_KEYS):
            self._cluster = None
            self._read = Read()

    def _stream_once(self, retrying: Retrying) -> None:
        """Connect and stream until stopped or broken."""
        settings = self._settings
        # What the last connection brought has its tasks confirmed before anything is read twice.
        self._settle()
        self.activity.begin(Doing.CONNECTING)
        stream, server, cluster, slot = open_stream(settings, self._read)
        self._slot_lsn = (slot.confirmed_flush_lsn if slot is not None else None) or Lsn(0)
        try:
            self._meet(cluster)
            # What is done here need not be sent again.
            resumes = settings.durable_slot and settings.message_middleware is None
            start = self.confirmed_lsn if resumes else Lsn(0)
            self._delivery.deliver(self._publisher.declare)
            with self.activity.during(Doing.CREATING_SLOT):
                created_at = stream.create_slot() if slot is None else None
            # Until it is acknowledged for the first time, that is where it stands: the lag is told from there.
            self._slot_lsn = created_at or self._slot_lsn
            created = created_at is not None
            self._plan_anew()
            if settings.message_middleware is None:
                self._ledger = None
                self._assembler = self._new_assembler()
            elif self._ledger is None or not settings.durable_slot:
                self._ledger = Ledger()
            else:
                # Kept from one connection to the next, as the middleware's queue is.
                self._ledger.reconnect()
            self._assembler.replan()
            stream.start(start)
            # Not before: now nobody else has the slot.
            self._take_over(cluster, None, None if created else self._catalog.wal_lsn)
            self._stream = stream
            self._read = Read(settings.slot, cluster)
            retrying.succeeded()
            self.statistics.connects += 1
            self._log_start(server, created=created)
            self.streaming.set()
            self._meter.look()
            self._consume(stream)
        finally:
            self.streaming.clear()
            self._stream = None
            stream.close()

    def _process_spool_once(self, spool: Spool, retrying: Retrying) -> None:
        """Process what the spool holds, and what its own thread adds to it, until stopped or broken."""
        settings = self._settings
        if self._spooled is None:
            self._spooled = SpooledStream(spool, settings, standby=self._standby, streaming=self.streaming)
            self.intake_activity = self._spooled.activity
        self._stream = stream = self._spooled
        self.activity.begin(Doing.CONNECTING)
        # What was read before has its tasks confirmed before anything is read twice.
        self._settle()
        spooled = stream.restart(settings, self.confirmed_lsn, timeout=IDLE_SECONDS)
        if spooled is None:
            return
        self._meet(spooled.cluster)
        # Its thread reads on while the broker is away.
        self._delivery.deliver(self._publisher.declare)
        # A spool is of one history, and Postgres may be away: it is not asked how far that goes.
        self._take_over(spooled.cluster, stream.identity, lambda: Lsn(2**64 - 1))
        self._plan_anew()
        self._assembler = self._new_assembler()
        retrying.succeeded()
        self.statistics.connects += 1
        self._log_start(spooled.server, created=spooled.created)
        logger.info("%r: %s wait in it", spool, stream.waiting())
        self._consume(stream)

    def _take_over(self, cluster: Cluster, spool: str | None, wal_lsn: Callable[[], Lsn] | None) -> None:
        """With ``exactly_once_enqueue``, have no other producer's tasks taken from now on, and learn which were."""
        settings = self._settings
        if not settings.exactly_once_enqueue:
            return
        key = position_key(cluster.system_identifier, settings.slot, spool)
        self._dispatcher.enqueued = take_over(
            self._publisher, self._delivery.deliver, key, cluster.timelines, wal_lsn
        )

    def _plan_anew(self) -> None:
        self._catalog.close()
        self._catalog = Catalog(self._settings)
        self._planner = Planner(self._settings, self._walex.handlers, self._catalog, self.statistics)

    def _meet(self, cluster: Cluster) -> None:
        """What comes is of this cluster, as it is now.

        After a failover the new primary may have other transactions at the same positions: there, the slot's own
        position is the only one that counts.
        """
        if cluster != self._cluster:
            self.confirmed_lsn = Lsn(0)
            self._ledger = None
        self._cluster = cluster
        self._dispatcher.prepare(self._walex.handlers, cluster.system_identifier)
        self._dispatcher.follow(cluster.timelines)
        self._runner.prepare(self._settings, self._walex.handlers, cluster)

    def _consume(self, stream: _Stream) -> None:
        try:
            self._read_until_stopped(stream)
        except (HandlerError, _Reconnect):
            # What came before the failed transaction, or the change, is done and need not come again.
            with suppress(WalExError):
                self._acknowledge_done(stream)
            raise
        except Stopped as stopped:
            logger.info("%s; its transaction is not acknowledged, and comes again", stopped)
        self._acknowledge_done(stream)

    def _acknowledge_done(self, stream: _Stream) -> None:
        self._settle()
        stream.acknowledge(self._done_lsn(), now=True)

    def _read_until_stopped(self, stream: _Stream) -> None:
        while not self._stopping.is_set():
            self.activity.begin(Doing.STREAMING)
            self._apply_change_at_boundary()
            if self._pausing.is_set() and not self._pause_at_boundary(stream):
                return
            waiting = self._publisher.unconfirmed_count or self._assembler.end_lsn > self.confirmed_lsn
            taken = self._take_in(stream, 0 if waiting else IDLE_SECONDS)
            if self._progress.due:
                self._log_progress(stream)
            if taken:
                self._flush()
                stream.acknowledge(self._done_lsn(), now=False)
            elif isinstance(stream, ReplicationStream) and stream.needs_confirmation:
                # More waits to be read. To acknowledge at once would put the next transactions, which began before
                # this one ended, below what is acknowledged too: each would be confirmed singly, for ever.
                self._settle()
                stream.acknowledge(self._done_lsn(), now=False)
            else:
                self._acknowledge_done(stream)
                if not self._pending() and not self._assembler.in_transaction:
                    # Promise 5: WAL that held nothing for us need not be kept.
                    stream.acknowledge(stream.wal_end, now=True)

    def _pause_at_boundary(self, stream: _Stream) -> bool:
        """Wait for :meth:`resume`, unless a transaction is open; whether to go on reading, not stopped."""
        # A slice ends with a transaction then, so that the boundary is met.
        stream.stop_at_boundary = self._assembler.in_transaction
        if stream.stop_at_boundary:
            return True
        self._acknowledge_done(stream)
        done = stream.acknowledged_lsn
        about = {"lsn": str(done), "slot": self._settings.slot}
        logger.info("paused; everything up to %s is acknowledged, the slot is held", done, extra=about)
        while self._pausing.is_set() and not self._stopping.is_set():
            self.activity.begin(Doing.PAUSED)
            self._woken.clear()
            self._apply_change_at_boundary()
            stream.check()
            self._woken.wait(IDLE_SECONDS)
        logger.info("stopping" if self._stopping.is_set() else "resumed")
        return not self._stopping.is_set()

    def _doing(self) -> tuple[str, str, float]:
        """What it is at, for people: the thread that is in trouble is the one to tell of."""
        moment, intake = self.activity.now, self.intake_activity
        if self._stopping.is_set() and moment.doing is not Doing.ENDED:
            return "stopping", "", moment.seconds
        if moment.doing in (Doing.STREAMING, Doing.CONNECTING) and intake is not None:
            reading = intake.now
            if reading.doing is not Doing.STREAMING:
                moment = reading
        if moment.doing is Doing.STREAMING and self._pausing.is_set():
            return "pausing", "", moment.seconds
        return moment.doing.value, moment.detail, moment.seconds

    def _newest_waiting(self) -> datetime | None:
        """When the newest transaction taken in hand was committed, if any is not done; callable from any thread."""
        with suppress(RuntimeError):  # the ledger changed while it was looked at
            if self._pending() or self.activity.now.doing is Doing.HANDLER:
                return self.statistics.newest
        return None

    def _acknowledged(self) -> Lsn | None:
        """Up to where Postgres may forget, as far as is known; callable from any thread."""
        stream = self._stream
        if stream is None:
            return None
        return max(stream.acknowledged_lsn, self._slot_lsn) or None

    def _pending(self) -> bool:
        """Whether whole transactions have been read that Postgres must not forget yet."""
        if self._ledger is not None:
            return self._ledger.outstanding
        return self._assembler.end_lsn > self.confirmed_lsn

    def _done_lsn(self) -> Lsn:
        """What may be acknowledged."""
        return self.confirmed_lsn if self._ledger is None else self._ledger.safe_lsn

    # Messages.

    @property
    def _middleware(self) -> Callable[..., Any] | None:
        """The callable that messages go through here; a spool's have been through it."""
        middleware = self._settings.message_middleware
        return None if isinstance(middleware, Spool) else middleware

    def _take_in(self, stream: _Stream, timeout: float) -> bool:
        """Read a slice, and process it or give it to the middleware; whether there was anything to do."""
        middleware = self._middleware
        if middleware is None:
            payloads = stream.read_payloads(pending=self._pending(), timeout=timeout)
            self.statistics.messages += len(payloads)
            self._process_slice(payloads)
            return bool(payloads)
        messages = stream.read(pending=self._pending(), timeout=timeout)
        self.statistics.messages += len(messages)
        handed_on = self._hand_to(middleware, messages)
        return bool(messages) or handed_on

    def _process_slice(self, payloads: list[bytes]) -> None:
        # Each message comes by here: what is called for it is one function.
        feed = self._assembler.feed
        for payload in payloads:
            chunk = feed(payload)
            if chunk is not None:
                self._dispatch(chunk)
            if self._asked:
                self._apply_change_at_boundary()
                if self._stopping.is_set():
                    break
                feed = self._assembler.feed

    def _hand_to(self, middleware: Callable[..., Any], messages: list[StreamMessage]) -> bool:
        """Give a slice to the middleware; whether that handed anything on."""
        ledger = self._ledger
        assert ledger is not None
        handed_on = False
        for message in messages:
            ledger.hand(message)
            with self.activity.during(Doing.MIDDLEWARE):
                stored = middleware(message, self._settings.name) is STORED
            if stored:
                ledger.store(message)
            handed_on |= self._inbox.drain(self._process_handed_on, self._settle)
            if self._stopping.is_set():
                break
        return self._inbox.drain(self._process_handed_on, self._settle) or handed_on

    def _process(self, payload: bytes) -> None:
        chunk = self._assembler.feed(payload)
        if chunk is not None:
            self._dispatch(chunk)

    def _dispatch(self, chunk: Chunk) -> None:
        try:
            self._dispatcher.dispatch(chunk)
        except BaseException:
            # Whatever ended it: this transaction is not done.
            self._assembler.take_back()
            raise
        if self._delivery.is_due:
            self._flush()

    def _process_handed_on(self, message: StreamMessage) -> None:
        self._process(message.payload)
        if self._ledger is not None:
            self._ledger.process(message)

    # Delivery.

    def _flush(self) -> None:
        """Send what was processed on its way; wait only when too much is under way already."""
        self._delivery.flush(Lsn(self._assembler.end_lsn))

    def _settle(self) -> None:
        """Have everything that was processed sent and confirmed."""
        self._delivery.settle(Lsn(self._assembler.end_lsn))

    def _position(self) -> int | None:
        enqueued = self._dispatcher.enqueued
        return None if enqueued is None else enqueued.position.pack()

    def _on_confirmed(self, lsn: Lsn) -> None:
        self.confirmed_lsn = max(self.confirmed_lsn, lsn)
        if self._ledger is not None:
            self._ledger.confirm(lsn)

    # Changes.

    def _apply_change_at_boundary(self) -> None:
        """Apply settings and handlers that changed, if no transaction is open."""
        if not self._change_waits or self._assembler.in_transaction:
            return
        self._change_waits = False
        self._asked = self._stopping.is_set()
        before, self._settings = self._settings, self._walex.settings
        if any(getattr(before, key) != getattr(self._settings, key) for key in CONNECTION_KEYS) or (
            (before.message_middleware is None) != (self._settings.message_middleware is None)
        ):
            self._leave(before)
            raise _Reconnect
        self._walex.import_modules()
        assert self._cluster is not None
        self._dispatcher.prepare(self._walex.handlers, self._cluster.system_identifier)
        self._runner.prepare(self._settings, self._walex.handlers, self._cluster)
        self._delivery.deliver(self._publisher.declare)
        self._planner.settings = self._settings
        self._assembler.replan()
        logger.info("settings changed: subscribed to %s", subscribed(self._settings))

    # What the log says.

    def _log_start(self, server: Server, *, created: bool) -> None:
        tell_start(
            self._settings,
            server,
            self._walex.handlers,
            policy=self._runner.policy,
            broker=self._publisher.describe(),
            created=created,
            lsn=self.confirmed_lsn,
        )
        # With a temporary slot less is promised anyway.
        if self._settings.durable_slot and not self._weaknesses_told:
            self._weaknesses_told = True
            tell_weaknesses(self._walex.app, self._dispatcher.functions)

    def _log_progress(self, stream: _Stream) -> None:
        self._progress.log(self.statistics, acknowledged=stream.acknowledged_lsn, lag=self._meter.lag)
