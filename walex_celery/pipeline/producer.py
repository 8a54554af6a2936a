"""The producer: connects a source to the dispatcher and the delivery, and owns the loop.

The order is what keeps promise 1: batch handlers return, then the broker confirms the tasks, then the source
may forget. One batch is on its way to the broker while the next is read and decoded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final

from walex_celery.app import WalEx, load_celery_modules
from walex_celery.errors import Fenced, HandlerError, WalExError
from walex_celery.pipeline.control import Control
from walex_celery.pipeline.handler_runner import Stopped
from walex_celery.pipeline.run import Run
from walex_celery.pipeline.session import Session
from walex_celery.pipeline.snapshot import state_of, take_snapshot
from walex_celery.pipeline.start_log import log_start, log_weaknesses, report_no_handlers, subscribed
from walex_celery.pipeline.takeover import leave, take_over
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.opening import Read
from walex_celery.retry.loop import Retrying
from walex_celery.settings.changes import CONNECTION_KEYS, PLACE_KEYS
from walex_celery.settings.model import WalExSettings
from walex_celery.sources.choose import source_for
from walex_celery.sources.middleware import register, unregister
from walex_celery.sources.protocol import ChangeSource, ChangeStream, ReadAgain
from walex_celery.telemetry.activity import Activity, Doing
from walex_celery.telemetry.report import ProducerStatus, node_name
from walex_celery.telemetry.statistics import Statistics

logger = logging.getLogger("walex_celery.producer")

#: Seconds to wait for a message before looking around (log line, idle acknowledgement).
IDLE_SECONDS: Final = 1.0


class _Reconnect(Exception):
    """The connection's settings changed: end this stream and connect again."""


class Producer:
    """The one ordered producer of an application: :meth:`run` it until :meth:`stop`.

    Args:
        walex: the application.
        standby: wait for a durable slot that is in use, instead of raising SlotInUse.
    """

    def __init__(self, walex: WalEx, *, standby: bool = False) -> None:
        self._walex = walex
        self._standby = standby
        self._control = Control()
        self._run: Run | None = None
        self._session: Session | None = None
        self._read = Read()
        #: What it did since it was made.
        self.statistics = Statistics()
        #: What :meth:`run`'s thread is doing.
        self.activity = Activity()
        #: Set while the slot is being streamed.
        self.streaming = threading.Event()

    def run(self) -> None:
        """Stream until :meth:`stop` is called; finish and acknowledge the batch in hand; return.

        Raises:
            ConfigurationError: a setting or handler is wrong; nothing was touched.
            SetupError: Postgres is not set up for what the settings ask.
            SlotInUse: another process reads the durable slot, and goes on doing so for 3 s.
            HandlerError: a batch handler raised, and halts it; its transaction is not acknowledged.
            RetryableError: Postgres or the broker was unreachable for ``reconnect_timeout``, or the broker while
                stopping: then what was read last is not acknowledged, and comes again.
        """
        walex, control = self._walex, self._control
        load_celery_modules(walex.app)  # before the settings, which may name what Django must be set up for
        settings = walex.settings
        walex.import_modules()
        if not walex.handlers:
            report_no_handlers(settings)
        register(settings.name)
        unlisten = walex.listen(control.change)
        run: Run | None = None
        try:
            run = self._run = Run(
                walex,
                settings,
                self.node,
                self.statistics,
                self.activity,
                control,
                make_source=self._make_source,
                acknowledged=self._acknowledged,
                newest=self._newest_waiting,
            )
            # A function that can't be sent is reported before Postgres is asked anything.
            run.dispatcher.prepare(walex.handlers, 0)
            retrying = Retrying(
                control.stopping,
                settings.reconnect_timeout,
                standby=self._standby,
                activity=self.activity,
                handover_seconds=run.source.handover_seconds,
            )
            retrying.run(partial(self._run_once, run, retrying))
            run.check_all_confirmed()
            if self._session is not None and run.dispatcher.enqueued is not None:
                leave(self._session.stream, run.publisher)
        finally:
            self.activity.begin(Doing.ENDED)
            unlisten()
            unregister(settings.name)
            if run is not None:
                run.close()

    def stop(self) -> None:
        """Ask :meth:`run` to finish; callable from any thread or signal handler."""
        self._control.stop()

    def pause(self) -> None:
        """Stop reading at the next transaction boundary, until :meth:`resume`; callable from any thread.

        What was read is delivered and acknowledged. The slot stays held: no other producer takes over. A spool goes
        on filling; its processing pauses.
        """
        self._control.pause()

    def resume(self) -> None:
        """Read on; callable from any thread."""
        self._control.resume()

    @property
    def walex(self) -> WalEx:
        """The application."""
        return self._walex

    @property
    def node(self) -> str:
        """Its name in the remote-control mailbox and in Flower."""
        return node_name(self._walex.settings.name, standby=self._standby)

    @property
    def confirmed_lsn(self) -> Lsn:
        """Everything up to here is done: handlers returned, the broker confirmed."""
        return Lsn(0) if self._run is None else self._run.delivery.confirmed_lsn

    @property
    def source_activity(self) -> Activity | None:
        """What a thread of the source's own is doing, such as a spool's that reads the slot; ``None`` without one."""
        return None if self._run is None else self._run.source.activity

    def snapshot(self) -> ProducerStatus | None:
        """What it is doing and has done, without secrets; callable from any thread. ``None`` before :meth:`run`."""
        run = self._run
        if run is None:
            return None
        return take_snapshot(
            run,
            self._session,
            self._walex.handlers,
            self.statistics,
            node=self.node,
            state=state_of(self._control, self.activity, run.source.activity),
        )

    def _acknowledged(self) -> Lsn | None:
        session = self._session
        return None if session is None else session.acknowledged_lsn

    def _newest_waiting(self) -> datetime | None:
        """When the newest transaction taken in hand was committed, if any is not done; callable from any thread."""
        session = self._session
        if (session is not None and session.is_pending) or self.activity.now.doing is Doing.HANDLER:
            return self.statistics.newest
        return None

    def _make_source(self, settings: WalExSettings, middleware: Callable[[], Any]) -> ChangeSource:
        return source_for(
            settings.name,
            middleware,
            standby=self._standby,
            reconnect_timeout=settings.reconnect_timeout,
            log_interval=settings.log_interval,
            activity=self.activity,
            streaming=self.streaming,
            stopping=self._control.stopping,
        )

    # Connections, one after the other.

    def _run_once(self, run: Run, retrying: Retrying) -> None:
        """Connect and stream until stopped or broken."""
        self._adopt(run)
        run.renew_source()
        try:
            if self._session is not None:
                # What the last connection brought has its tasks confirmed before anything is read twice.
                self._session.settle()
            self.activity.begin(Doing.CONNECTING)
            stream = run.source.open(run.slot_settings(), self._read, run.delivery.confirmed_lsn)
            if stream is not None:
                self._stream(run, stream, retrying)
        except _Reconnect:
            logger.info("the connection's settings changed; connecting again")
        except ReadAgain:
            pass
        except Fenced:
            # Another producer goes on from what the broker has: what is not known to be there is read again, by it or
            # by this one.
            run.delivery.forget()
            self._session = None
            raise

    def _adopt(self, run: Run) -> None:
        """Go by the settings that are there by now; a new password may be what fixes the connection."""
        before, run.settings = run.settings, self._walex.settings
        if any(getattr(before, key) != getattr(run.settings, key) for key in PLACE_KEYS):
            # It may be another database, of which what was done before says nothing.
            self._read = Read()

    def _stream(self, run: Run, stream: ChangeStream, retrying: Retrying) -> None:
        session = self._session = Session(
            stream,
            run.settings,
            self._walex.handlers,
            run.dispatcher,
            run.delivery,
            self.statistics,
            self._session,
        )
        try:
            self._begin(run, session)
            retrying.succeeded()
            self.statistics.connects += 1
            self._log_start(run, stream)
            stream.begin(session)
            run.meter.look()
            self._consume(run, session)
        finally:
            session.close()

    def _begin(self, run: Run, session: Session) -> None:
        """Start the stream, after everything that can fail before it."""
        settings, stream = run.settings, session.stream
        cluster = stream.cluster
        if cluster != self._read.cluster or stream.starts_over:
            # After a failover the new primary may have other transactions at the same positions, and so has a server
            # that went back to an older copy: there, the slot's own position is the only one that counts.
            run.delivery.confirmed_lsn = Lsn(0)
            session.forget_position()
        run.follow(self._walex.handlers, cluster)
        # Before the slot is made: without queues its changes could only pile up.
        run.delivery.deliver(run.publisher.declare)
        session.start()
        if settings.exactly_once_enqueue:
            # Not before the stream was started: now no other producer has the slot.
            run.dispatcher.enqueued = take_over(
                stream, settings.slot_settings(), session.catalog, run.publisher, run.delivery
            )
        self._read = Read(settings.slot, cluster)

    def _log_start(self, run: Run, stream: ChangeStream) -> None:
        log_start(
            run.settings,
            stream.server,
            self._walex.handlers,
            functions=run.dispatcher.functions_of,
            policy=run.runner.policy,
            broker=run.publisher.describe(),
            created=stream.created,
            lsn=run.delivery.confirmed_lsn,
        )
        # With a temporary slot less is promised anyway.
        if run.settings.durable_slot and not run.weaknesses_logged:
            run.weaknesses_logged = True
            log_weaknesses(self._walex.app, run.dispatcher.functions)

    # The loop.

    def _consume(self, run: Run, session: Session) -> None:
        try:
            self._read_until_stopped(run, session)
        except (HandlerError, _Reconnect):
            # What came before the failed transaction, or the change, is done and need not come again.
            with suppress(WalExError):
                session.finish()
            raise
        except Stopped as stopped:
            if run.settings.durable_slot:
                logger.info("%s; its transaction is not acknowledged, and comes again", stopped)
            else:
                logger.warning(
                    "%s; its transaction is lost, because the slot is temporary and ends with the producer "
                    "(durable_slot=True)",
                    stopped,
                )
        session.finish()

    def _read_until_stopped(self, run: Run, session: Session) -> None:
        control = self._control
        while not control.stopping.is_set():
            self.activity.begin(Doing.STREAMING)
            self._apply_change(run, session)
            if control.pausing.is_set() and not self._pause(run, session):
                return
            found = session.read(IDLE_SECONDS, to_boundary=control.pausing.is_set())
            self.statistics.messages += found.message_count
            self._process(run, session, found.payloads)
            if run.progress.due:
                run.progress.log(
                    self.statistics, acknowledged=session.stream.acknowledged_lsn, lag=run.meter.lag
                )
            if found.is_busy:
                session.flush()
                session.acknowledge(now=False)
            elif found.needs_confirmation:
                # More waits to be read. To acknowledge at once would put the next transactions, which began before
                # this one ended, below what is acknowledged too: each would be confirmed singly, for ever.
                session.settle()
                session.acknowledge(now=False)
            else:
                session.finish()

    def _process(self, run: Run, session: Session, payloads: list[bytes]) -> None:
        # Each message comes by here: what is called for it is one function.
        control, feed = self._control, session.assembler.feed
        for payload in payloads:
            chunk = feed(payload)
            if chunk is not None:
                session.dispatch(chunk)
            if control.asked:
                self._apply_change(run, session)
                if control.stopping.is_set():
                    return

    def _pause(self, run: Run, session: Session) -> bool:
        """Wait for :meth:`resume`, unless a transaction is open; whether to go on reading, not stopped."""
        if session.assembler.in_transaction:
            # A slice ends with a transaction now, so that the boundary is met.
            return True
        session.finish()
        control = self._control
        done = session.stream.acknowledged_lsn
        about = {"lsn": str(done), "slot": run.settings.slot}
        logger.info("paused; everything up to %s is acknowledged, the slot is held", done, extra=about)
        while control.pausing.is_set() and not control.stopping.is_set():
            self.activity.begin(Doing.PAUSED)
            control.clear_wake()
            self._apply_change(run, session)
            session.acknowledge(now=True)  # raises if the connection is known to have broken
            control.wait(IDLE_SECONDS)
        logger.info("stopping" if control.stopping.is_set() else "resumed")
        return not control.stopping.is_set()

    def _apply_change(self, run: Run, session: Session) -> None:
        """Apply settings and handlers that changed, if no transaction is open."""
        if not self._control.change_waits or session.assembler.in_transaction:
            return
        self._control.take_change()
        before = run.settings
        self._adopt(run)
        settings = run.settings
        if any(getattr(before, key) != getattr(settings, key) for key in CONNECTION_KEYS) or (
            (before.message_middleware is None) != (settings.message_middleware is None)
        ):
            raise _Reconnect
        self._walex.import_modules()
        run.follow(self._walex.handlers, session.stream.cluster)
        run.delivery.deliver(run.publisher.declare)
        session.replan(settings)
        logger.info("settings changed: subscribed to %s", subscribed(settings))
