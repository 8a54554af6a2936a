"""The publisher: collects tasks, writes them by the batch, and knows which the broker has confirmed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from celery import Celery

from walex_celery.broker.driver import Batch, Writer
from walex_celery.broker.drivers import driver_of, open_link
from walex_celery.broker.position import Position
from walex_celery.broker.templates.argument import IdWithEvent
from walex_celery.broker.templates.destination import Destination, DestinationOf
from walex_celery.broker.templates.keyed import KeyedTarget
from walex_celery.broker.templates.reasons import surroundings
from walex_celery.broker.templates.target import TaskTarget
from walex_celery.broker.templates.wire import Item
from walex_celery.errors import ConfigurationError, MessageTooLarge

logger = logging.getLogger(__name__)


class Added(NamedTuple):
    """What a publisher had collected at one moment: how many messages, of which size, and how many events of theirs."""

    items: int
    size_bytes: int
    sent_events: int


class Publisher:
    """Publishes Celery tasks so that each is confirmed, in the order they were added.

    What was added is kept until the broker confirmed it. After :class:`BrokerUnavailable` or
    :class:`PublishRefused`, calling :meth:`flush` and :meth:`confirm` again sends what is left, with the
    same task ids. Not to be used by two threads at once.
    """

    def __init__(self, app: Celery, writer: Writer) -> None:
        self._app = app
        self._writer = writer
        self._exactly_once = writer.exactly_once
        self._targets: dict[tuple[str, DestinationOf | None], TaskTarget] = {}
        self._surroundings = surroundings()
        self._items: list[Item] = []
        self._size_bytes = 0
        self._sent_events: list[dict[str, Any]] = []  # of what is not flushed
        self._flushed_events: list[dict[str, Any]] = []
        self._eager: list[Callable[[], None]] = []
        self._batches: list[Batch] = []
        self._left_out: list[Item] = []  # still in the batches
        self._at_once: Item | None = None
        self._serial = 0
        #: Does a step with the broker, however long that is unreachable, for messages that are written at once.
        self.deliver: Callable[[Callable[[], None]], object] = lambda step: step()
        # The heartbeat thread and the publishing one take turns on the connection.
        self._turn = threading.Lock()
        self._closed = threading.Event()
        self._heart: threading.Thread | None = None

    @classmethod
    def open(
        cls,
        app: Celery,
        *,
        timeout_seconds: float = 30.0,
        exactly_once: bool = False,
        sender: str | None = None,
    ) -> Publisher:
        """Return a publisher for the app's broker; connects when first needed.

        Args:
            app: the Celery app, whose broker settings count.
            timeout_seconds: how long one wait on the broker may last without progress.
            exactly_once: if the broker can: the position given to :meth:`flush` is stored with the tasks, all
                or nothing, under the key given to :meth:`take_over`, which must be called before any flush.
            sender: the node whose ``task-sent`` events Flower sees; ``None`` for one made of process and host.

        Raises:
            ConfigurationError: no such transport, its library is missing, or ``exactly_once`` with a broker that
                can't do it.
        """
        link = open_link(app, timeout_seconds, sender=sender)
        writer = driver_of(link).open_writer(link, exactly_once=exactly_once)
        if exactly_once and writer.exactly_once is None:
            raise ConfigurationError(
                f"exactly_once_enqueue needs Redis or Valkey as the broker, not {link.url}: set "
                "exactly_once_enqueue=False. Tasks then come at least once, always with the same id."
            )
        return cls(app, writer)

    def prepare(
        self, task: Any, *, destination: DestinationOf | None = None, among: Iterable[Destination] = ()
    ) -> TaskTarget:
        """Resolve and plan a task; the same task and function give the same target.

        Args:
            task: a task, or its name.
            destination: chooses each event's destination; ``None`` leaves that to the task's options and routes.
            among: destinations to plan and declare now; others are planned at their first event.

        Raises:
            ConfigurationError: it can't be sent: pickle, not callable with one argument, no such destination; or,
                exactly once, because it sends by itself.
        """
        name = task if isinstance(task, str) else str(task.name)
        key = name, destination
        if key not in self._targets:
            target = (
                TaskTarget(self._app, task, self._writer)
                if destination is None
                else KeyedTarget(self._app, task, self._writer, destination, among)
            )
            if self._exactly_once is not None and target.way == "apply_async":
                raise ConfigurationError(
                    f"Task {name!r} can't be enqueued exactly once, because {target.reason}: what it sends by itself "
                    "is not stored together with the position. Use a plain task, or set exactly_once_enqueue=False."
                )
            self._targets[key] = target
            about = {"task": target.name, "way": target.way}
            logger.info("Task %s %s", target.name, target.in_words, extra=about)
            if not target.is_known:
                _warn_of_unknown(target)
            if target.is_sent_at_once:
                _warn_of_locks(target)
        return self._targets[key]

    def declare(self) -> None:
        """Declare the queues of all prepared tasks now.

        Raises:
            BrokerUnavailable: the broker can't be reached.
            PublishRefused: the broker has a queue of that name with other properties, or refuses it.
        """
        entities = {entity: None for target in self._targets.values() for entity in target.declares}
        with self._turn:
            self._writer.declare(entities)
        self._start_heart()

    def add(self, target: TaskTarget, task_id: str, value: bytes, argsrepr: str, head: bytes = b"") -> None:
        """Collect one task.

        Args:
            target: what :meth:`prepare` returned, or its :meth:`~TaskTarget.to`.
            task_id: a UUID.
            value: the event's JSON text in UTF-8.
            argsrepr: what Flower shows for the argument.
            head: what ``value`` begins with, the same object for many events; it is encoded once.

        Raises:
            BrokerUnavailable, PublishRefused: a message that is written at once (:attr:`TaskTarget.is_sent_at_once`) is
                not confirmed. Its task's ``apply_async`` was told so.
            MessageTooLarge: likewise, and that message is left out.
        """
        template = target.template
        if template is not None and (item := template(task_id, value, argsrepr, head)) is not None:
            self._items.append(item)
            self._size_bytes += len(item[2]) + len(item[3])
            if target.sent_event is not None:
                self._sent_events.append(target.sent_event_of(task_id, argsrepr))
        elif target.eager:
            self._eager.append(lambda: target.run(task_id, value))
        elif target.is_sent_at_once:
            self._add_at_once(target, task_id, value, argsrepr, head)
        else:
            items, events = target.collect(task_id, value, argsrepr, head)
            self._items.extend(items)
            self._size_bytes += sum(len(item[2]) + len(item[3]) for item in items)
            self._sent_events.extend(events)

    def extend(self, items: list[Item], size_bytes: int) -> None:
        """Collect messages that templates made, of *size_bytes* together."""
        self._items += items
        self._size_bytes += size_bytes

    def added(self) -> Added:
        """What is waiting for a flush, for :meth:`take_back`."""
        return Added(len(self._items), self._size_bytes, len(self._sent_events))

    def take_back(self, before: Added) -> None:
        """In exactly-once mode: forget what was added since *before*; nothing was flushed in between."""
        del self._items[before.items :]
        del self._sent_events[before.sent_events :]
        self._size_bytes = before.size_bytes

    def flush(self, position: int | None = None) -> int:
        """Write all that was added and not confirmed; may return before the broker confirmed it.

        Args:
            position: in exactly-once mode, what is stored with this batch, a :class:`Position` with its landmark; must
                grow from flush to flush.

        Returns:
            The number of this flush, for :meth:`confirm`.

        Raises:
            BrokerUnavailable: calling it again connects and sends all of it again.
            PublishRefused: likewise, once the operator has fixed what the message names.
            MessageTooLarge: likewise, or after :meth:`leave_out` the others.
            Fenced: in exactly-once mode, another publisher took over; :meth:`take_over` again, or give up.
        """
        while self._eager:
            self._eager.pop(0)()
        self._write(position)
        self._replan()
        return self._serial

    def _add_at_once(
        self, target: TaskTarget, task_id: str, value: bytes, argsrepr: str, head: bytes
    ) -> None:
        refused: list[MessageTooLarge] = []

        def send(item: Item) -> None:
            self._items.append(item)
            self._size_bytes += len(item[2]) + len(item[3])
            self._at_once = item
            try:
                self.deliver(self._write_and_confirm)
            except MessageTooLarge as error:
                if error.message is item:
                    self.leave_out(error)
                    refused.append(error)
                raise
            finally:
                self._at_once = None

        try:
            self._sent_events.extend(target.send_at_once(task_id, value, argsrepr, head, send))
        except Exception as error:
            if not refused or error is refused[0]:
                raise
            raise refused[0] from error  # the task's own apply_async made another error of it
        if refused:
            raise refused[0]  # it kept silent about it

    def is_sent_at_once(self, refused: MessageTooLarge) -> bool:
        """Whether the message is one that :meth:`add` is about to raise the error for."""
        return refused.message is self._at_once

    def event_text(self, refused: MessageTooLarge) -> bytes:
        """Return the JSON text of the event in a message that is too large."""
        item: Any = refused.message
        task_id = item[1]
        return task_id.value if isinstance(task_id, IdWithEvent) else self._writer.event_text(item)

    def leave_out(self, refused: MessageTooLarge) -> None:
        """Forget a message that is too large for the broker: from the next flush on it is not sent any more."""
        item: Any = refused.message
        self._left_out.append(item)
        for events in (self._sent_events, self._flushed_events):
            events[:] = [event for event in events if event.get("uuid") != item[1]]

    def _drop_left_out(self) -> None:
        """Drop what is left out. The writer must have dropped what the broker has: it goes by the items' places."""
        for batch in self._batches:
            kept = [item for item in batch.items if not any(item is left for left in self._left_out)]
            if len(kept) < len(batch.items):
                batch.keep(kept)
        self._left_out.clear()

    def _write_and_confirm(self) -> None:
        self._write(None)
        self.confirm()

    def _write(self, position: int | None) -> None:
        if self._items:
            self._serial += 1
            self._batches.append(Batch(self._items, self._size_bytes, self._serial, position))
            self._items, self._size_bytes = [], 0
            self._flushed_events += self._sent_events
            self._sent_events = []
        if self._batches:
            with self._turn:
                self._writer.resume(self._batches)
                if self._exactly_once is not None:
                    self._exactly_once.drop_stored(self._batches)
                if self._left_out:
                    self._drop_left_out()
                self._batches = [batch for batch in self._batches if batch.items]
                while self._writer.one_at_a_time and len(self._batches) > 1:
                    self._writer.write(self._batches[0])
                    self._writer.confirm(self._batches, 1)
                    del self._batches[0]
                for batch in self._batches:
                    self._writer.write(batch)
            self._start_heart()

    def confirm(self, serial: int | None = None) -> None:
        """Return when the broker has confirmed everything flushed.

        Args:
            serial: only wait for this flush and those before it; later ones stay under way.

        Raises:
            BrokerUnavailable: it did not within the deadline; what is not confirmed is kept.
            PublishRefused: it refuses a task: which, for which queue, and the fix; kept likewise.
            MessageTooLarge: as :meth:`flush`, which must be called next.
        """
        count = len(self._batches)
        if serial is not None:
            count = sum(batch.serial <= serial for batch in self._batches)
        if not count:
            return
        with self._turn:
            try:
                self._writer.confirm(self._batches, count)
            except BaseException:
                self._batches = [batch for batch in self._batches if batch.items]
                raise
            del self._batches[:count]
            if self._flushed_events and not self._batches:
                events, self._flushed_events = self._flushed_events, []
                self._writer.publish_events(events)

    def take_over(self, key: str) -> Position | None:
        """In exactly-once mode: take over the position under *key* from whoever had it, and return it.

        What was added or flushed here before is forgotten. From now on another publisher that had it is refused.

        Args:
            key: where the position is stored, in the broker; kombu's ``global_keyprefix`` goes before it.

        Raises:
            BrokerUnavailable, PublishRefused: the position was not read; call it again.
        """
        assert self._exactly_once is not None
        self.forget()
        with self._turn:
            return self._exactly_once.take_over(key)

    def reset_position(self) -> None:
        """In exactly-once mode: forget the stored position.

        Raises:
            Fenced: another publisher has taken it over.
            BrokerUnavailable, PublishRefused: it is still there; call it again.
        """
        assert self._exactly_once is not None
        with self._turn:
            self._exactly_once.reset_position()

    def leave(self, note: str) -> None:
        """In exactly-once mode: store a note for the publisher that takes over next, who alone gets it.

        Raises:
            Fenced, BrokerUnavailable, PublishRefused: it is not stored.
        """
        assert self._exactly_once is not None
        with self._turn:
            self._exactly_once.leave(note)

    def forget(self) -> None:
        """Forget what is not confirmed; the broker may have some of it."""
        self._items, self._size_bytes, self._batches = [], 0, []
        self._sent_events, self._flushed_events = [], []
        self._eager.clear()
        self._left_out.clear()

    @property
    def unconfirmed_count(self) -> int:
        """How many messages are kept: added, or flushed and not yet confirmed."""
        return len(self._items) + len(self._eager) + sum(len(batch.items) for batch in self._batches)

    @property
    def added_bytes(self) -> int:
        """Size of what was added since the last flush, in bytes."""
        return self._size_bytes

    @property
    def unconfirmed_bytes(self) -> int:
        """Size of the messages kept, in bytes."""
        return self._size_bytes + sum(batch.size_bytes for batch in self._batches)

    def describe(self) -> str:
        """Return the broker's address, never with its password, and how it confirms."""
        return self._writer.describe()

    def close(self) -> None:
        """Close the connection; what is not confirmed is forgotten. Never raises."""
        self._closed.set()
        if self._heart is not None:
            self._heart.join(timeout=5)
        with self._turn:
            self._writer.close()

    def _replan(self) -> None:
        """Plan again if a signal's receiver or a patch came or went since."""
        now = surroundings()
        if now == self._surroundings:
            return
        self._surroundings = now
        for target in self._targets.values():
            way = target.way
            target.plan()
            if target.way != way:
                logger.info("Task %s, from now on, %s", target.name, target.in_words)

    def _start_heart(self) -> None:
        if self._heart is None and self._writer.has_heartbeats:
            self._heart = threading.Thread(target=self._beat, name="walex-broker-heartbeat", daemon=True)
            self._heart.start()

    def _beat(self) -> None:
        """Serve heartbeats while nothing is published: a handler may run for minutes."""
        while not self._closed.wait(1.0):
            if self._turn.acquire(blocking=False):
                try:
                    self._writer.idle()
                except Exception:
                    logger.debug("heartbeat failed", exc_info=True)
                finally:
                    self._turn.release()


def _warn_of_unknown(target: TaskTarget) -> None:
    """Say what is lost with a task of which only the name is known."""
    queues = ", ".join(map(repr, target.queues))
    logger.warning(
        "Task %s is not known to this process, only its name: its own options (queue, priority, expires, serializer "
        "and others) are lost; it goes %sas task_routes and the defaults say\n"
        "  fix: import its module here too (include=[...]); for a task of another code base, give its queue and "
        "priority in task_routes",
        target.name,
        f"to queue {queues}, " if queues else "",
        extra={"task": target.name},
    )


def _warn_of_locks(target: TaskTarget) -> None:
    """Say what may be lost with a task that sends by itself."""
    logger.warning(
        "Task %s: %s. Each of its messages is written and confirmed on its own, which is slower. If it takes a lock "
        "(celery-singleton, celery-once), an event is lost if the producer is killed after the lock is taken and "
        "before the broker has confirmed the message: it comes again, finds the lock taken, and makes no message\n"
        "  fix: use a plain task, and let it tell by its id (the same at each delivery) whether it has run before; or "
        "let the lock expire soon",
        target.name,
        target.reason,
        extra={"task": target.name},
    )
