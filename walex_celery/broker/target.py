"""A Celery task as a destination: which way its messages are made, and why."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from celery import Celery, signals
from celery.app.task import Task
from celery.local import maybe_evaluate
from celery.result import denied_join_result

from walex_celery.broker import reasons, sentinels
from walex_celery.broker.body import wire_argument
from walex_celery.broker.collect import CollectingProducer, Message
from walex_celery.broker.replay import Replay
from walex_celery.broker.signalled import Signalled, muted_signals
from walex_celery.broker.wire import Item, Template, Writer
from walex_celery.errors import ConfigurationError

logger = logging.getLogger("walex_celery.broker.function")

_PICKLE = "application/x-python-serialize"
_PROOF = (sentinels.PROOF_TASK_ID, sentinels.PROOF_VALUE, sentinels.PROOF_ARGSREPR)


class TaskTarget:
    """A Celery task that events are sent to.

    Attributes:
        name: the Celery task's name.
        way: ``"template"`` (bytes captured from Celery, with holes), ``"collect"`` (Celery makes each
            message) or ``"apply_async"`` (the task's own method is called).
        reason: why that way, one clause, for the log.
        template: makes the messages in the template way.
        sent_event: the constant fields of the task-sent event, where Celery's settings ask for it.
        declares: queues and exchanges to declare before the first message, as far as known.
        delivery_mode: of its messages, 1 transient or 2 persistent, as far as known.
        eager: events run the task in this process (``task_always_eager``).
    """

    def __init__(self, app: Celery, task: Any, writer: Writer) -> None:
        self._app = app
        self._writer = writer
        if isinstance(task, str):
            self.name = task
            self._task: Any = app.tasks.get(task)
        else:
            self.name = str(task.name)
            self._task = maybe_evaluate(task)  # @app.task gives a proxy until the app is finalized
        self._producer: Any = CollectingProducer()
        self._warned = False
        self.plan()

    @property
    def calls_receivers(self) -> bool:
        """Whether the publish signals' receivers are called here instead of by Celery."""
        return self._signalled is not None

    def __repr__(self) -> str:
        return f"<TaskTarget {self.name} by {self.way}: {self.reason}>"

    # --- planning -----------------------------------------------------------------------------------

    def plan(self) -> None:
        """Choose the way: at start, and anew when something was connected or patched since.

        Raises:
            ConfigurationError: the task can't be sent at all.
        """
        self.way, self.reason = "collect", ""
        self.template: Template | None = None
        self.sent_event: dict[str, Any] | None = None
        self.declares: tuple[Any, ...] = ()
        self.delivery_mode: int | None = None
        self._replay: Replay | None = None
        self._signalled: Signalled | None = None
        self._sends_events = bool(self._app.conf.task_send_sent_event)
        self.eager = bool(self._app.conf.task_always_eager) and self._task is not None
        if self.eager:
            self.way, self.reason = "apply_async", "task_always_eager runs it in this process"
            return
        self._check_signature()
        if own := reasons.own_publish(self._app, self._task):
            self.way, self.reason = "apply_async", own
            self._learn_destination()
            return
        if why := reasons.per_message(self._app, self._task):
            self.reason = why
            self._learn_destination()
            return
        replay = Replay()
        with replay.recording(self._app):
            captured = self._capture(sentinels.TASK_ID, sentinels.VALUE, sentinels.ARGSREPR)
        if captured is not None:
            self.declares = captured.declare
            self.delivery_mode = captured.properties.get("delivery_mode")
        if captured is None:
            self.reason = "Celery does not send exactly one message for it"
        elif why := reasons.receivers(self.name):
            self.reason = why
            self._call_receivers(captured)
            self._make_replay(replay)
        elif (template := self._writer.template(captured)) is None:
            self.reason = "its transport or its message has no template"
            self._make_replay(replay)
        elif not self._proved(template(*_PROOF)):
            self.reason = "two of its messages differ in more than id, body and argsrepr"
        else:
            self.template = template
            self.sent_event = captured.events[0] if captured.events else None
            self.way, self.reason = "template", "its messages differ in id, body and argsrepr only"

    def _check_signature(self) -> None:
        """Check that the task takes one argument, as apply_async would for each event."""
        header = getattr(self._task, "__header__", None)
        if header is None or not self._task.typing:
            return
        try:
            header(None)
        except TypeError as error:
            raise ConfigurationError(
                f"Task {self.name!r} must take the event as its one argument: {error}"
            ) from error

    def _learn_destination(self) -> None:
        """Find out what to declare for a task that is never captured.

        Its own apply_async and its result backend's on_task_call may have side effects, so that they
        are run for real events only; here Celery's own run, without a result.
        """
        if type(self._app).send_task is not Celery.send_task:
            return
        publish = (
            partial(Task.apply_async, self._task) if self._task else partial(self._app.send_task, self.name)
        )
        args = (wire_argument(sentinels.VALUE),)
        try:
            with muted_signals(), denied_join_result():
                publish(args, {}, task_id=sentinels.TASK_ID, producer=self._producer, ignore_result=True)
        except Exception as error:  # a router's or the task's own code, which may know real events only
            logger.info("Task %s: its queue is not known before its first event: %r", self.name, error)
        for message in self._producer.take(self.name, sentinels.TASK_ID):
            self._refuse_pickle(message)
            self.declares += message.declare
            self.delivery_mode = message.properties.get("delivery_mode")

    def _capture(self, task_id: str, value: bytes, argsrepr: str) -> Message | None:
        """Return the one message that Celery would send, or None where there is not exactly one."""
        with muted_signals():
            try:
                messages = self._send(task_id, value, argsrepr)
            except Exception as error:
                raise ConfigurationError(
                    f"Task {self.name!r} can't be sent with an event as its one argument: {error}"
                ) from error
        for message in messages:
            self._refuse_pickle(message)
        return messages[0] if len(messages) == 1 else None

    def _refuse_pickle(self, message: Message) -> None:
        if message.content_type == _PICKLE:
            raise ConfigurationError(
                f"Task {self.name!r} is serialized with pickle, which is never used for events. "
                "Set serializer='json' on the task, or task_serializer = 'json'."
            )

    def _proved(self, item: Item | None) -> bool:
        """Whether an item made of the proof is what Celery sends for it."""
        proof = self._capture(*_PROOF)
        return item is not None and proof is not None and self._writer.same(item, self._writer.encode(proof))

    def _make_replay(self, replay: Replay) -> None:
        with muted_signals():
            replay(self._producer, *_PROOF)
            messages = self._producer.take(self.name, sentinels.PROOF_TASK_ID)
        if len(messages) == 1 and self._proved(self._writer.encode(messages[0])):
            self._replay = replay

    def _call_receivers(self, captured: Message) -> None:
        """Call the signals' receivers here, where that comes to the same as Celery's calling them."""
        if signals.task_sent.has_listeners(self.name):
            return  # deprecated, and called with yet other arguments
        template = self._writer.template(captured)
        if template is not None and self._proved(template(*_PROOF)):
            self._signalled = Signalled.of(template, self._writer, self._producer, self._send)
            self.sent_event = captured.events[0] if captured.events else None

    # --- sending ------------------------------------------------------------------------------------

    def _send(self, task_id: str, value: bytes, argsrepr: str) -> list[Message]:
        """Let Celery send the task into the collecting producer."""
        producer = self._producer
        if self._replay is not None:
            self._replay(producer, task_id, value, argsrepr)
            return list(producer.take(self.name, task_id))
        options: dict[str, Any] = {"argsrepr": argsrepr, "kwargsrepr": "{}", "producer": producer}
        if self._sends_events:
            options["event_dispatcher"] = producer.event_dispatcher
        args = (wire_argument(value),)
        # Celery's Redis and RPC backends would subscribe to each task's result, which nobody here reads;
        # they don't where joining is denied, as in a worker.
        with denied_join_result():
            if self._task is None:
                self._app.send_task(self.name, args, {}, task_id=task_id, **options)
            else:
                self._task.apply_async(args, {}, task_id=task_id, **options)
        return list(producer.take(self.name, task_id))

    def collect(
        self, task_id: str, value: bytes, argsrepr: str, head: bytes = b""
    ) -> tuple[list[Item], list[dict[str, Any]]]:
        """Return the messages that Celery makes for one task, and its task-sent events."""
        if self._signalled is not None:
            item = self._signalled(task_id, value, argsrepr, head)
            return [item], [self.sent_event_of(task_id, argsrepr)] if self.sent_event is not None else []
        messages = self._send(task_id, value, argsrepr)
        if not messages and not self._warned:
            self._warned = True
            logger.warning(
                "Task %s: its apply_async published nothing through the producer it was given. Either it drops "
                "tasks on purpose (a lock), or it sends them by itself, and nobody confirms them.",
                self.name,
            )
        for message in messages:
            self._refuse_pickle(message)
        return [self._writer.encode(m) for m in messages], [event for m in messages for event in m.events]

    def sent_event_of(self, task_id: str, argsrepr: str) -> dict[str, Any]:
        """Return the task-sent event of one task, where there are such events."""
        return {**(self.sent_event or {}), "uuid": task_id, "root_id": task_id, "args": argsrepr}

    def run(self, task_id: str, value: bytes) -> None:
        """Run the task in this process (``task_always_eager``)."""
        from walex_celery.events.event import Event

        self._task.apply_async((Event.from_json(value),), {}, task_id=task_id, producer=self._producer)
