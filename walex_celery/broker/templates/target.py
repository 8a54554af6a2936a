"""A Celery task that events are sent to: which way its messages are made, and why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import Celery, signals
from celery.local import maybe_evaluate
from kombu import Queue

from walex_celery.broker.templates import reasons, sentinels
from walex_celery.broker.templates.argument import with_event
from walex_celery.broker.templates.destination import TASKS_OWN, Destination, checked
from walex_celery.broker.templates.sender import Sender
from walex_celery.broker.templates.signalled import Signalled
from walex_celery.errors import ConfigurationError

if TYPE_CHECKING:
    from walex_celery.broker.driver import Encoder
    from walex_celery.broker.templates.collect import Message
    from walex_celery.broker.templates.replay import Replay
    from walex_celery.broker.templates.wire import Item, Template

logger = logging.getLogger("walex_celery.broker.function")

_TRIAL = (sentinels.TASK_ID, sentinels.VALUE, sentinels.ARGSREPR)
_PROOF = (sentinels.PROOF_TASK_ID, sentinels.PROOF_VALUE, sentinels.PROOF_ARGSREPR)

_IN_WORDS = {
    "template": "is published from a template, the fastest way",
    "receivers": "is published from a template, slower because receivers are called for each message",
    "collect": "is published in batches, slower because Celery makes each message",
    "apply_async": "sends each message by itself, slowest because each is confirmed before the next one",
    "eager": "runs in the producer",
}


class TaskTarget:
    """A Celery task that events are sent to.

    Attributes:
        name: the Celery task's name.
        way: ``"template"`` (bytes captured from Celery, with holes), ``"collect"`` (Celery makes each
            message) or ``"apply_async"`` (the task's own method is called).
        reason: why that way, one clause, for the log.
        template: makes the messages in the template way.
        sent_event: the constant fields of the task-sent event, if Celery's settings ask for it.
        declares: queues and exchanges to declare before the first message, as far as known.
        delivery_mode: of its messages, 1 transient or 2 persistent, as far as known.
        eager: events run the task in this process (``task_always_eager``).
    """

    def __init__(
        self, app: Celery, task: Any, encoder: Encoder, destination: Destination = TASKS_OWN
    ) -> None:
        self._app = app
        self._encoder = encoder
        if isinstance(task, str):
            self.name = task
            self._task: Any = app.tasks.get(task)
        else:
            self.name = str(task.name)
            self._task = maybe_evaluate(task)  # @app.task gives a proxy until the app is finalized
        self._destination = destination
        self._variants: dict[Destination, TaskTarget] = {}
        self._warned = False
        self.plan()

    @property
    def calls_receivers(self) -> bool:
        """Whether the publish signals' receivers are called here instead of by Celery."""
        return self._signalled is not None

    def __repr__(self) -> str:
        where = f" to {self._destination}" if any(self._destination) else ""
        return f"<TaskTarget {self.name}{where} by {self.way}: {self.reason}>"

    @property
    def in_words(self) -> str:
        """The way and why, as the predicate of a sentence about the task, for the log."""
        way = "eager" if self.eager else "receivers" if self.calls_receivers else self.way
        return f"{_IN_WORDS[way]}: {self.reason}"

    @property
    def is_sent_at_once(self) -> bool:
        """Whether each message is written and confirmed on its own, because the task or the app sends it by itself."""
        return self.way == "apply_async" and not self.eager

    @property
    def is_known(self) -> bool:
        """Whether the application has the task; if not, only its name is known, and none of its options."""
        return self._task is not None

    @property
    def queues(self) -> list[str]:
        """The names of the queues that its messages go to, as far as known before the first event."""
        return list(dict.fromkeys(item.name for item in self.declares if isinstance(item, Queue)))

    def to(
        self, queue: str | None = None, routing_key: str | None = None, priority: int | None = None
    ) -> TaskTarget:
        """Return this task with options of ``apply_async`` that say where its messages go; the same each time.

        Raises:
            ConfigurationError: there can be no such destination, or Celery does not send to it.
        """
        destination = checked(Destination(queue, routing_key, priority), self.name)
        variant = self._variants.get(destination)
        if variant is None:
            task = self.name if self._task is None else self._task
            variant = self._variants[destination] = TaskTarget(self._app, task, self._encoder, destination)
        return variant

    # --- planning -----------------------------------------------------------------------------------

    def plan(self) -> None:
        """Choose the way: at start, and again when something was connected or patched since.

        Raises:
            ConfigurationError: the task can't be sent at all.
        """
        self.way, self.reason = "collect", ""
        self.template: Template | None = None
        self.sent_event: dict[str, Any] | None = None
        self.declares: tuple[Any, ...] = ()
        self.delivery_mode: int | None = None
        self._signalled: Signalled | None = None
        self._sender = Sender(self._app, self._task, self.name, self._destination)
        self.eager = bool(self._app.conf.task_always_eager) and self._task is not None
        if self.eager:
            self.way, self.reason = "apply_async", "task_always_eager is set"
        else:
            self._check_signature()
            self._choose_way()
        for variant in self._variants.values():
            variant.plan()

    def _choose_way(self) -> None:
        if own := reasons.own_publish(self._app, self._task):
            self.way, self.reason = "apply_async", own
            self._learn_destination()
        elif why := reasons.per_message(self._app, self._task):
            self.reason = why
            self._learn_destination()
        else:
            with self._sender.recording() as replay:
                captured = self._sender.capture(*_TRIAL)
            if captured is None:
                self.reason = "Celery does not send exactly one message for it"
            else:
                self.declares = captured.declare
                self.delivery_mode = captured.properties.get("delivery_mode")
                self._choose_template(captured, replay)

    def _choose_template(self, captured: Message, replay: Replay) -> None:
        if why := reasons.receivers(self.name):
            self.reason = why
            self._call_receivers(captured)
            self._shorten(replay)
        elif (template := self._encoder.template(captured)) is None:
            self.reason = (
                "there is no template for the broker's transport, or for the message's serialization"
            )
            self._shorten(replay)
        elif not self._proved(template(*_PROOF)):
            self.reason = "its messages differ in more than id and event"
        else:
            self.template = template
            self.sent_event = captured.events[0] if captured.events else None
            self.way, self.reason = "template", "its messages differ in nothing but id and event"

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
        """Find out what to declare for a task that is never captured."""
        for message in self._sender.likely_messages():
            self.declares += message.declare
            self.delivery_mode = message.properties.get("delivery_mode")

    def _proved(self, item: Item | None) -> bool:
        """Whether an item made of the proof is what Celery sends for it."""
        proof = self._sender.capture(*_PROOF)
        return (
            item is not None and proof is not None and self._encoder.same(item, self._encoder.encode(proof))
        )

    def _shorten(self, replay: Replay) -> None:
        """Let Celery do less for each message, if that comes to the same."""
        message = self._sender.replayed(replay, *_PROOF)
        if message is not None and self._proved(self._encoder.encode(message)):
            self._sender.shorten(replay)

    def _call_receivers(self, captured: Message) -> None:
        """Call the signals' receivers here, if that comes to the same as Celery's calling them."""
        if signals.task_sent.has_listeners(self.name):
            return  # deprecated, and called with yet other arguments
        template = self._encoder.template(captured)
        if template is not None and self._proved(template(*_PROOF)):
            self._signalled = Signalled.of(template, self._encoder, self._sender.producer, self._sender.send)
            self.sent_event = captured.events[0] if captured.events else None

    # --- sending ------------------------------------------------------------------------------------

    def collect(
        self, task_id: str, value: bytes, argsrepr: str, head: bytes = b""
    ) -> tuple[list[Item], list[dict[str, Any]]]:
        """Return the messages that Celery makes for one task, and its task-sent events."""
        if self._signalled is not None:
            item = self._signalled(task_id, value, argsrepr, head)
            return [item], [self.sent_event_of(task_id, argsrepr)] if self.sent_event is not None else []
        messages = self._sender.send(task_id, value, argsrepr)
        self._warn_of_none(messages)
        items = [with_event(self._encoder.encode(m), m, value) for m in messages]
        return items, [event for m in messages for event in m.events]

    def send_at_once(
        self, task_id: str, value: bytes, argsrepr: str, head: bytes, write: Callable[[Item], None]
    ) -> list[dict[str, Any]]:
        """Have *write* called with each message as soon as Celery has made it; return the task-sent events.

        A task's own ``apply_async`` may take a lock, and an event that comes again then makes no message: it must not
        wait for a batch.
        """
        messages = self._sender.send_at_once(
            task_id, value, argsrepr, lambda message: write(self._encoder.encode(message))
        )
        self._warn_of_none(messages)
        return [event for message in messages for event in message.events]

    def _warn_of_none(self, messages: list[Message]) -> None:
        if not messages and not self._warned:
            self._warned = True
            logger.warning(
                "Task %s: its apply_async published nothing through the producer it was given. Either it drops "
                "tasks on purpose (a lock), or it sends them by itself, and nothing confirms them.",
                self.name,
            )

    def sent_event_of(self, task_id: str, argsrepr: str) -> dict[str, Any]:
        """Return the task-sent event of one task, if there are such events."""
        return {**(self.sent_event or {}), "uuid": task_id, "root_id": task_id, "args": argsrepr}

    def run(self, task_id: str, value: bytes) -> None:
        """Run the task in this process (``task_always_eager``).

        Raises:
            ConfigurationError: it failed, and ``task_eager_propagates`` lets its error out.
        """
        from walex_celery.events.event import Event

        event = Event.from_json(value)
        try:
            self._task.apply_async((event,), {}, task_id=task_id, producer=self._sender.producer)
        except Exception as error:
            raise ConfigurationError(
                f"task {self.name} failed in the producer (task_always_eager), and task_eager_propagates lets its "
                f"error end the producer: {type(error).__name__}: {error}\n"
                "  acknowledged: nothing of its transaction; with a durable slot it comes again at the next start\n"
                "  fix: app.conf.task_always_eager = False, so that workers run it; or "
                "app.conf.task_eager_propagates = False"
            ) from error
