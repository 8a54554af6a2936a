"""Sends one task through Celery itself, into a producer that collects the messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from celery import Celery
from celery.app.task import Task
from celery.result import denied_join_result
from kombu.serialization import dumps, loads

from walex_celery.broker.templates import sentinels
from walex_celery.broker.templates.argument import first_argument, is_event
from walex_celery.broker.templates.body import wire_argument
from walex_celery.broker.templates.collect import CollectingProducer, Message
from walex_celery.broker.templates.destination import Destination
from walex_celery.broker.templates.replay import Replay
from walex_celery.broker.templates.signalled import muted_signals
from walex_celery.errors import ConfigurationError
from walex_celery.events.event import Event

logger = logging.getLogger("walex_celery.broker.function")

_PICKLE = "application/x-python-serialize"


class Sender:
    """Sends a task as its ``apply_async``, or the app's ``send_task``, does with an event as its one argument.

    Args:
        app: the Celery app.
        task: the task; ``None`` if it is not registered here.
        name: its name.
        destination: options that override the task's own.
    """

    def __init__(self, app: Celery, task: Any, name: str, destination: Destination) -> None:
        self._app = app
        self._task = task
        self._name = name
        self._destination = destination
        self._options = destination.options()
        self._sends_events = bool(app.conf.task_send_sent_event)
        self._replay: Replay | None = None
        #: Content types and serializers of which a worker gets an event.
        self._proved: set[tuple[str, str | None]] = set()
        #: Any: the stubs' producer has a connection.
        self.producer: Any = CollectingProducer()

    def send(self, task_id: str, value: bytes, argsrepr: str) -> list[Message]:
        """Let Celery send the task, and return the messages.

        Raises:
            ConfigurationError: it would use pickle.
        """
        producer = self.producer
        if self._replay is not None:
            self._replay(producer, task_id, value, argsrepr)
            return self._taken(task_id)
        options: dict[str, Any] = {
            **self._options, "argsrepr": argsrepr, "kwargsrepr": "{}", "producer": producer
        }  # fmt: skip
        if self._sends_events:
            options["event_dispatcher"] = producer.event_dispatcher
        args = (wire_argument(value),)
        # Celery's Redis and RPC backends would subscribe to each task's result, which nothing here reads;
        # they don't where joining is denied, as in a worker.
        with denied_join_result():
            if self._task is None:
                self._app.send_task(self._name, args, {}, task_id=task_id, **options)
            else:
                self._task.apply_async(args, {}, task_id=task_id, **options)
        return self._taken(task_id)

    def send_at_once(
        self, task_id: str, value: bytes, argsrepr: str, write: Callable[[Message], None]
    ) -> list[Message]:
        """As :meth:`send`; *write* is called with each message inside of the task's ``apply_async``.

        What *write* raises is raised there, where a task that has taken a lock may release it.
        """

        def made(message: Message) -> None:
            message.task, message.task_id = self._name, message.headers.get("id") or task_id
            self._check(message)
            write(message)

        self.producer.made = made
        try:
            return self.send(task_id, value, argsrepr)
        finally:
            self.producer.made = None

    def capture(self, task_id: str, value: bytes, argsrepr: str) -> Message | None:
        """Return the one message that Celery would send, or ``None`` if there is not exactly one.

        Raises:
            ConfigurationError: it can't be sent.
        """
        with muted_signals():
            try:
                messages = self.send(task_id, value, argsrepr)
            except ConfigurationError:
                raise
            except Exception as error:
                how = f"to {self._destination}" if self._options else "with an event as its one argument"
                raise ConfigurationError(f"Task {self._name!r} can't be sent {how}: {error}") from error
        return messages[0] if len(messages) == 1 else None

    @contextmanager
    def recording(self) -> Iterator[Replay]:
        """Record what Celery does for the message sent meanwhile."""
        replay = Replay()
        with replay.recording(self._app):
            yield replay

    def replayed(self, replay: Replay, task_id: str, value: bytes, argsrepr: str) -> Message | None:
        """Return the one message that *replay* makes, or ``None`` if there is not exactly one."""
        with muted_signals():
            replay(self.producer, task_id, value, argsrepr)
            messages = self._taken(task_id)
        return messages[0] if len(messages) == 1 else None

    def shorten(self, replay: Replay) -> None:
        """Send by *replay* from now on, which has been proved to do the same."""
        self._replay = replay

    def likely_messages(self) -> list[Message]:
        """Return what Celery's own code would send for a task that is never captured.

        Its own apply_async and its result backend's on_task_call may have side effects, so they run for real
        events only; here Celery's own run, without a result.
        """
        if type(self._app).send_task is not Celery.send_task:
            return []
        publish = (
            partial(Task.apply_async, self._task) if self._task else partial(self._app.send_task, self._name)
        )
        options = {**self._options, "producer": self.producer, "ignore_result": True}
        try:
            with muted_signals(), denied_join_result():
                publish((wire_argument(sentinels.VALUE),), {}, task_id=sentinels.TASK_ID, **options)
        except Exception as error:  # a router's or the task's own code, which may know real events only
            logger.info("Task %s: its queue is not known before its first event: %r", self._name, error)
        return self._taken(sentinels.TASK_ID)

    def _taken(self, task_id: str) -> list[Message]:
        messages: list[Message] = self.producer.take(self._name, task_id)
        for message in messages:
            self._check(message)
        return messages

    def _check(self, message: Message) -> None:
        """Check that the serializer is one that is used for events."""
        if message.content_type == _PICKLE:
            raise ConfigurationError(
                f"Task {self._name!r} is serialized with pickle, which is never used for events. "
                "Set serializer='json' on the task, or task_serializer = 'json'."
            )
        if (made := (message.content_type, message.serializer)) not in self._proved:
            self._check_event(message)
            self._proved.add(made)

    def _check_event(self, message: Message) -> None:
        """Check that a worker gets an event of *message*.

        Kombu's JSON makes one of its tagged form. Other serializers leave it a dict, and so may another JSON library
        that was registered in the place of kombu's.
        """
        body = message.raw_body
        if not is_event(first_argument(body)):
            return  # the task's own apply_async sends something else
        content_type, encoding, made = dumps(body, serializer=message.serializer)
        received = first_argument(loads(made, content_type, encoding, accept={content_type}))
        if not isinstance(received, Event):
            raise ConfigurationError(
                f"Task {self._name!r} is serialized with {message.serializer or content_type}, of which a worker makes "
                f"a {type(received).__name__} instead of an Event\n"
                "  fix: set serializer='json' on the task, or task_serializer = 'json'; workers must have 'json' in "
                "accept_content"
            )
