"""Delivery of tasks to the broker: batches on their way, their confirmations, and a broker that is unreachable."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from walex_celery._failpoints import failpoint
from walex_celery.broker import Publisher
from walex_celery.errors import BrokerUnavailable, HandlerError, MessageTooLarge, PublishRefused
from walex_celery.pipeline.handler_runner import Stopped
from walex_celery.postgres.lsn import Lsn
from walex_celery.retry.backoff import Backoff
from walex_celery.settings.model import WalExSettings
from walex_celery.telemetry.activity import Activity, Doing
from walex_celery.telemetry.progress import human_bytes
from walex_celery.telemetry.statistics import Statistics

# The producer's logger: whoever filters its lines gets these too.
logger = logging.getLogger("walex_celery.producer")

Delivered = TypeVar("Delivered")

#: What waits for the broker goes out when it is this many tasks or bytes; less goes when nothing more is ready.
FLUSH_TASKS: Final = 2000
FLUSH_BYTES: Final = 8 * 1024 * 1024
#: Batches on their way to the broker at once: while it confirms one, the next are decoded and written.
IN_FLIGHT: Final = 4
#: Seconds until the next try, if the broker confirmed some of what it refused at the last one.
PROGRESS_SECONDS: Final = 0.1


class Delivery:
    """Sends what was added to the publisher, in batches, and knows what the broker has confirmed.

    Args:
        publisher: what tasks are added to.
        settings: gives those in force.
        statistics: ``tasks`` counts what was added; ``publish`` gets the time of each batch.
        activity: what the producer's thread is doing.
        stopping: set when the producer is to end: then an unreachable broker is not waited for.
        position: what is stored with a batch (``exactly_once_enqueue``), or ``None``.
        set_aside: applies the error policy to an event whose message is too large for the broker. It gets the error,
            the event's JSON text, and what tries once more; returns whether that worked, rather than a dead letter is
            stored.
    """

    def __init__(
        self,
        publisher: Publisher,
        settings: Callable[[], WalExSettings],
        statistics: Statistics,
        activity: Activity,
        stopping: threading.Event,
        *,
        position: Callable[[], int | None],
        set_aside: Callable[[MessageTooLarge, bytes, Callable[[], None]], bool],
    ) -> None:
        self._publisher = publisher
        self._settings = settings
        self._statistics = statistics
        self._activity = activity
        self._stopping = stopping
        self._position = position
        self._set_aside = set_aside
        #: Why the producer halts: what comes after it must not be acknowledged.
        self._halt: HandlerError | None = None
        #: Flushes that are not known to be confirmed: their number, the LSN that was done with them, and when.
        self._in_flight: deque[tuple[int, Lsn, float]] = deque()
        self._tasks_flushed = 0
        self._flush_bytes = min(FLUSH_BYTES, settings().max_waiting_bytes)
        self._serial_confirmed = 0
        #: Everything up to here is done: handlers returned, the broker confirmed.
        self.confirmed_lsn = Lsn(0)

    @property
    def batches_in_flight(self) -> int:
        """Flushes that are not known to be confirmed."""
        return len(self._in_flight)

    @property
    def has_unconfirmed(self) -> bool:
        """Whether there are tasks that the broker has not confirmed."""
        return self._publisher.unconfirmed_count > 0

    @property
    def is_due(self) -> bool:
        """Whether enough has been added for a batch of its own."""
        # Asked for each transaction.
        return (
            self._statistics.tasks - self._tasks_flushed >= FLUSH_TASKS
            or self._publisher.added_bytes >= self._flush_bytes
        )

    def flush(self, lsn: Lsn) -> None:
        """Send what was added on its way; wait only when too much is under way already.

        Args:
            lsn: what is done when this is confirmed.

        Raises:
            BrokerUnavailable, PublishRefused: as :meth:`deliver`.
        """
        added = self._statistics.tasks > self._tasks_flushed
        if added:
            failpoint("tasks-added")
        serial = self.deliver(self._send)
        if added:
            failpoint("tasks-written")
        self._in_flight.append((serial, lsn, time.perf_counter()))
        self._tasks_flushed = self._statistics.tasks
        most = self._settings().max_waiting_bytes
        self._flush_bytes = min(FLUSH_BYTES, most)
        while len(self._in_flight) > IN_FLIGHT or (
            self._in_flight and self._publisher.unconfirmed_bytes > most
        ):
            self._confirm_oldest()

    def settle(self, lsn: Lsn) -> None:
        """Have everything that was added sent and confirmed; arguments and errors as :meth:`flush`."""
        self.flush(lsn)
        while self._in_flight:
            self._confirm_oldest()

    def forget(self) -> None:
        """Drop what is not known to be in the broker."""
        self._publisher.forget()
        self._in_flight.clear()

    def deliver(self, step: Callable[[], Delivered]) -> Delivered:
        """Do *step* with the broker, however long that is unreachable; the stream is kept alive meanwhile (promise 6).

        Raises:
            BrokerUnavailable, PublishRefused: when stopping, or after ``reconnect_timeout`` without a confirmation.
            HandlerError: a message is too large for the broker, and the policy is to halt.
        """
        if self._halt is not None:
            raise self._halt
        with self._activity.during(Doing.BROKER):
            return self._deliver_however_long(step)

    def _send(self) -> int:
        return self._publisher.flush(self._position())

    def _confirm_oldest(self) -> None:
        serial, lsn, began = self._in_flight[0]
        self.deliver(partial(self._publisher.confirm, serial))
        self._in_flight.popleft()
        if serial != self._serial_confirmed:
            self._serial_confirmed = serial
            failpoint("tasks-confirmed")
            self._statistics.publish.observe(time.perf_counter() - began)
        self.confirmed_lsn = max(self.confirmed_lsn, lsn)

    def _tell_waiting(self) -> None:
        count = self._publisher.unconfirmed_count
        if count:
            logger.warning(
                "%d tasks (%s) wait for the broker, which is unreachable or refuses them; processing waits, the slot "
                "is held",
                count,
                human_bytes(self._publisher.unconfirmed_bytes),
            )
        else:
            logger.warning("the broker is unreachable, or refuses a queue; processing waits for it")

    def _leave_out(self, refused: MessageTooLarge) -> None:
        """Have the policy decide about each message that is too large; the others go on.

        Raises:
            HandlerError: the policy is to halt.
            MessageTooLarge: it must be raised inside of its task's ``apply_async``; or the producer stops.
        """
        for error in refused.each:
            if self._publisher.is_sent_at_once(error):
                raise error
            try:
                again = partial(self._try_again, error)
                if not self._set_aside(error, self._publisher.event_text(error), again):
                    self._publisher.leave_out(error)
            except HandlerError as halt:
                self._halt = halt
                raise
            except Stopped:
                raise error from None
        self._activity.begin(Doing.BROKER)

    def _try_again(self, refused: MessageTooLarge) -> None:
        """Have all sent and confirmed, for the limit may have been raised.

        Raises:
            MessageTooLarge: that message is still too large.
        """

        def send_and_confirm() -> None:
            self._send()
            self._publisher.confirm()

        self._activity.begin(Doing.BROKER)
        try:
            self._deliver_however_long(send_and_confirm, leave_out=False)
        except MessageTooLarge as error:
            for again in error.each:
                if again.message is refused.message:
                    raise again from None
            # It is another one that is too large, and comes up again.

    def _deliver_however_long(self, step: Callable[[], Delivered], *, leave_out: bool = True) -> Delivered:
        settings = self._settings()
        backoff = Backoff(settings.reconnect_timeout)
        failed = left_out = False
        waiting = self._publisher.unconfirmed_count
        while True:
            try:
                if failed or left_out:
                    self._send()  # connects, and sends again what was not confirmed
                done = step()
                if failed:
                    logger.info("the broker takes tasks again")
                return done
            except MessageTooLarge as error:
                if not leave_out:
                    raise
                self._leave_out(error)
                left_out = True
            except (BrokerUnavailable, PublishRefused) as error:
                if self._stopping.is_set():
                    raise
                self._activity.begin(Doing.BROKER_DOWN)
                before, waiting = waiting, self._publisher.unconfirmed_count
                if failed and waiting < before:
                    # A full queue takes the rest as fast as workers make room; it may refuse some at each try.
                    backoff.reset()
                    logger.debug(
                        "the broker confirmed %d tasks since the last try: %s", before - waiting, error
                    )
                    self._stopping.wait(PROGRESS_SECONDS)
                    continue
                if not failed:
                    self._tell_waiting()
                failed = True
                level = logging.WARNING if isinstance(error, BrokerUnavailable) else logging.ERROR
                # Up to this position everything is done; what comes after it waits.
                fields = {"lsn": str(self.confirmed_lsn), "slot": settings.slot}
                backoff.wait(error, self._stopping, level=level, fields=fields)
