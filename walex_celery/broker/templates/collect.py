"""A kombu producer that collects what Celery would send instead of sending it.

Only the innermost step of ``kombu.Producer`` is replaced, so that whatever patches or receives the steps
above it (Sentry's patched ``Producer.publish``, the publish signals) works as it does with a broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from kombu import Producer, Queue


@dataclass(slots=True)
class Message:
    """One message as kombu hands it to a transport's channel, and how its body was made."""

    task: str
    task_id: str
    body: str | bytes
    content_type: str
    content_encoding: str
    headers: dict[str, Any]
    properties: dict[str, Any]
    priority: int
    exchange: str
    routing_key: str
    declare: tuple[Any, ...]
    raw_body: Any
    serializer: str | None
    compression: str | None
    events: list[dict[str, Any]] = field(default_factory=list)


class _NoConnection:
    """What Celery and kombu ask of a producer's connection while publishing."""

    def __init__(self) -> None:
        self.transport_options: dict[str, Any] = {}

    def ensure(self, obj: object, fun: Callable[..., Any], **policy: Any) -> Callable[..., Any]:
        return fun  # nothing is sent here, so there is nothing to retry

    @contextmanager
    def _reraise_as_library_errors(self) -> Iterator[None]:
        yield


class EventCollector:
    """Takes the place of an event dispatcher in ``send_task_message``: keeps the task-sent fields."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def publish(self, type: str, fields: dict[str, Any], producer: object, **options: Any) -> None:
        """Keep the event's fields."""
        self.events.append(dict(fields))


class CollectingProducer(Producer):  # type: ignore[misc, unused-ignore]
    """Collects messages; :meth:`take` hands them over."""

    def __init__(self) -> None:
        super().__init__(cast(Any, None), auto_declare=False)
        self._messages: list[Message] = []
        self._made: tuple[Any, str | None, str | None] = (None, None, None)
        #: Called with each message as soon as it is made, inside of the task's ``apply_async``.
        self.made: Callable[[Message], None] | None = None
        self.no_connection = _NoConnection()
        self.event_dispatcher = EventCollector()

    @property
    def connection(self) -> Any:
        """A stand-in: nothing is sent from here."""
        return self.no_connection

    def take(self, task: str, task_id: str) -> list[Message]:
        """Return what was collected since the last call."""
        messages, self._messages = self._messages, []
        events, self.event_dispatcher.events = self.event_dispatcher.events, []
        for message in messages:
            message.task = task
            message.task_id = message.headers.get("id") or task_id
        if messages:
            messages[-1].events = events
        return messages

    def _prepare(  # type: ignore[override, unused-ignore]
        self, body: Any, serializer: Any = None, content_type: Any = None,
        content_encoding: Any = None, compression: Any = None, headers: Any = None,
    ) -> Any:  # fmt: skip
        self._made = (body, serializer or self.serializer, compression)
        return super()._prepare(body, serializer, content_type, content_encoding, compression, headers)

    def _publish(  # type: ignore[override, unused-ignore]
        self, body: Any, priority: Any, content_type: Any, content_encoding: Any, headers: Any,
        properties: Any, routing_key: Any, mandatory: Any, immediate: Any, exchange: Any, declare: Any,
        *timeouts_and_retries: Any,
    ) -> None:  # fmt: skip
        reply_to = properties.get("reply_to")
        if isinstance(reply_to, Queue):
            properties["reply_to"] = reply_to.name
        # Celery passes options it does not know on as properties: these two belong into the headers only.
        properties.pop("argsrepr", None)
        properties.pop("kwargsrepr", None)
        raw_body, serializer, compression = self._made
        message = Message(
            task="",
            task_id="",
            body=body,
            content_type=content_type,
            content_encoding=content_encoding,
            headers=headers,
            properties=properties,
            priority=priority,
            exchange=exchange,
            routing_key=routing_key,
            declare=tuple(declare or ()),
            raw_body=raw_body,
            serializer=serializer,
            compression=compression,
        )
        self._messages.append(message)
        if self.made is not None:
            self.made(message)
