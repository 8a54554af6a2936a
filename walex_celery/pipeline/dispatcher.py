"""What happens with a chunk: batch handlers are called, functions become tasks.

Handlers first, in the order registered, one at a time; then, event by event, the tasks: a chunk whose handler halts
the producer has enqueued nothing. Where a handler's failure is a dead letter, the other handlers and all tasks go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from celery import Celery

from walex_celery.broker import Publisher, TaskTarget
from walex_celery.broker.position import Position
from walex_celery.errors import ConfigurationError, MessageTooLarge, WalExError
from walex_celery.events.event import Event
from walex_celery.events.task_id import function_digest, task_id, task_id_prefix, timeline_salt
from walex_celery.handlers.registry import Handler, resolve_functions
from walex_celery.handlers.routes import Route
from walex_celery.pipeline.assembler import Chunk, RoutedEvent
from walex_celery.pipeline.enqueued import Enqueued
from walex_celery.pipeline.handler_runner import HandlerRunner
from walex_celery.pipeline.task_messages import make_tasks
from walex_celery.postgres.timeline import Timelines
from walex_celery.telemetry.activity import Activity
from walex_celery.telemetry.statistics import Statistics, TaskTally

if TYPE_CHECKING:
    from walex_celery.telemetry.tracing import Tracing


class _Target(NamedTuple):
    function: TaskTarget
    digest: int
    tally: TaskTally


class Dispatcher:
    """Hands chunks to batch handlers and to the publisher, and counts what it does in *statistics*."""

    def __init__(
        self,
        app: Celery,
        publisher: Publisher,
        instance: str,
        statistics: Statistics | None = None,
        activity: Activity | None = None,
        tracing: Tracing | None = None,
        runner: HandlerRunner | None = None,
    ) -> None:
        self.statistics = Statistics() if statistics is None else statistics
        activity = Activity() if activity is None else activity
        self._runner = runner or HandlerRunner(app, None, self.statistics, activity, threading.Event())
        self._tracing = tracing
        self._app = app
        self._publisher = publisher
        self._instance = instance
        self._system_identifier = 0
        self._targets: dict[Handler, tuple[_Target, ...]] = {}
        self._calls_handlers = False
        self._timelines = Timelines()
        # Of the current timeline, and where that begins: looked at for each chunk.
        self._salt, self._since = 0, 0
        #: Whose tasks are in the broker already, where that is known (``exactly_once_enqueue``).
        self.enqueued: Enqueued | None = None

    def packed_position(self) -> Position | None:
        """What is stored with the tasks dispatched so far (``exactly_once_enqueue``), or ``None``."""
        return None if self.enqueued is None else self.enqueued.packed()

    def follow(self, timelines: Timelines) -> None:
        """What is dispatched from now on is of this history."""
        self._timelines = timelines
        self._salt, self._since = timeline_salt(timelines.current), timelines.since

    def prepare(self, handlers: Iterable[Handler], system_identifier: int) -> None:
        """Resolve the handlers' functions; call it again when there are more, or for another cluster.

        Raises:
            ConfigurationError: for a function that can't be found or sent.
        """
        if system_identifier != self._system_identifier:
            self._targets = {}
        self._system_identifier = system_identifier
        for handler in handlers:
            if handler not in self._targets:
                functions = [self._publisher.prepare(task) for task in resolve_functions(self._app, handler)]
                self._targets[handler] = tuple(
                    _Target(function, self._digest(function), self.statistics.task(function.name))
                    for function in functions
                )
        self._calls_handlers = any(handler.batch is not None for handler in self._targets)
        names: dict[int, str] = {}
        for target in (target for targets in self._targets.values() for target in targets):
            if names.setdefault(target.digest, target.function.name) != target.function.name:
                raise ConfigurationError(
                    f"tasks {names[target.digest]!r} and {target.function.name!r} would get the same ids (one chance "
                    "in a billion): give one of them another name"
                )

    def _digest(self, function: TaskTarget) -> int:
        return function_digest(self._system_identifier, self._instance, function.name)

    @property
    def functions(self) -> list[TaskTarget]:
        """The prepared functions, each once."""
        found = {
            target.function.name: target.function for targets in self._targets.values() for target in targets
        }
        return list(found.values())

    def functions_of(self, handler: Handler) -> list[TaskTarget]:
        """The prepared functions of *handler*, in its order."""
        return [target.function for target in self._targets.get(handler, ())]

    def dispatch(self, chunk: Chunk) -> None:
        """Call the batch handlers of *chunk*, then add its tasks to the publisher.

        Raises:
            HandlerError: a handler raised, and its policy is to halt; its error is the cause.
            Stopped: the producer was asked to stop while a failure was dealt with.
        """
        if self._tracing is None:
            self._dispatch(chunk)
        else:
            events = [routed.event for routed in chunk.routed]
            with self._tracing.transaction(chunk.info, chunk.traceparent, events):
                self._dispatch(chunk)

    def _dispatch(self, chunk: Chunk) -> None:
        statistics = self.statistics
        # First: while a handler runs, or the broker is unreachable, its age is the lag.
        statistics.newest_microseconds = chunk.context.microseconds
        if self._calls_handlers:
            self._call_handlers(chunk)
        enqueued = self.enqueued
        if enqueued is None:
            self._add_tasks(chunk)
        else:
            self._add_tasks_once(chunk, enqueued)
        statistics.events += len(chunk.routed)
        statistics.transactions += chunk.context.last

    def _call_handlers(self, chunk: Chunk) -> None:
        batches: dict[Handler, list[Event]] = {}
        for event, route in chunk.routed:
            for handler in route.batches:
                batches.setdefault(handler, []).append(event)
        if not batches:
            return
        # In the order registered, whichever table's event came first in the transaction.
        for handler in self._targets:
            events = batches.get(handler)
            if events:
                self._runner.call(handler, events)

    def _add_tasks_once(self, chunk: Chunk, enqueued: Enqueued) -> None:
        before = self._publisher.added()
        try:
            self._add_tasks(chunk._replace(routed=enqueued.new_of(chunk)))
        except BaseException:
            # The rest could not be made. No position covers a part of a chunk: stored without, they would be enqueued
            # again when it comes again.
            self._publisher.take_back(before)
            raise
        enqueued.added(chunk)

    def _add_tasks(self, chunk: Chunk) -> None:
        routed, lsn = chunk.routed, chunk.context.position
        salt = self._salt if lsn >= self._since else timeline_salt(self._timelines.of(lsn))
        at = 0
        while True:
            at, items, size = make_tasks(routed, at, lsn, salt)
            if items:
                self._publisher.extend(items, size)
                self.statistics.tasks += len(items)
            if at == len(routed):
                return
            self._add_tasks_of(routed[at : at + 1], lsn, salt)
            at += 1

    def _add_tasks_of(self, routed: Iterable[RoutedEvent], lsn: int, salt: int) -> None:
        prefix = task_id_prefix(lsn)
        add = self._publisher.add
        count = 0
        for event, route in routed:
            route.tally.accepted += 1
            targets = route.targets
            if targets is None:
                targets = route.targets = self._targets_of(route)
            if targets:
                value, head, argsrepr = event.for_task()
                index = event.index
                for target in targets:
                    function, digest, tally = target
                    id = task_id(prefix, index, digest ^ salt)
                    try:
                        add(function, id, value, argsrepr, head)
                    except Exception as error:
                        if isinstance(error, WalExError) and not isinstance(error, MessageTooLarge):
                            raise
                        again = partial(add, function, id, value, argsrepr, head)
                        if not self._answer(error, route, target, event, again, id):
                            count -= 1
                            continue
                    tally.count += 1
                count += len(targets)
        self.statistics.tasks += count

    def _answer(
        self,
        error: Exception,
        route: Route,
        target: _Target,
        event: Event,
        again: Callable[[], object],
        id: str,
    ) -> bool:
        """What becomes of an event that no task can be made of: a router or a signal's receiver raised."""
        handler = next(handler for handler in route.handlers if target in self._targets[handler])
        name = target.function.name
        return self._runner.apply_policy(error, handler, [event], again, task=name, task_id=id)

    def set_aside(self, error: MessageTooLarge, value: bytes, again: Callable[[], object]) -> bool:
        """What becomes of an event whose task's message is too large for the broker; arguments as ``apply_policy``.

        Args:
            error: of the publisher.
            value: the event's JSON text.
            again: sends it once more.

        Raises:
            HandlerError, Stopped: as :meth:`dispatch`.
        """
        event = Event.from_json(value)
        handler = self._handler_of(error.task, event)
        return self._runner.apply_policy(
            error, handler, [event], again, task=error.task, task_id=error.task_id
        )

    def _handler_of(self, task: str, event: Event) -> Handler:
        """The handler that a task was enqueued for: the first that has it as a function, and wants the event."""
        having = [
            handler
            for handler, targets in self._targets.items()
            if any(target.function.name == task for target in targets)
        ]
        wanting = (h for h in having if h.wants_event(event) and h.filters.accepts(event))
        return next(wanting, having[0])

    def _targets_of(self, route: Route) -> tuple[_Target, ...]:
        """The functions of a route, each once: two handlers with the same one are one task."""
        found = [target for handler in route.handlers for target in self._targets[handler]]
        return tuple(dict.fromkeys(found))
