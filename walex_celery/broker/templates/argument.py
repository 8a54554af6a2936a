"""The event in a task's message: read back for one that the broker did not accept."""

from __future__ import annotations

from typing import Any

from kombu.compression import decompress
from kombu.serialization import loads

from walex_celery.broker.templates.collect import Message
from walex_celery.broker.templates.wire import Item
from walex_celery.events.event import Event
from walex_celery.events.wire import WIRE_TYPE


class IdWithEvent(str):
    """The id of a task whose message does not show its event, for a receiver of the publish signals has changed it.

    Attributes:
        value: the event's JSON text.
    """

    value: bytes


def first_argument(body: Any) -> Any:
    """The first positional argument in the body of a task's message, of protocol 1 or 2; ``None`` without one."""
    arguments = body.get("args") if isinstance(body, dict) else body[0]
    return arguments[0] if arguments else None


def is_event(argument: Any) -> bool:
    """Whether a task's argument is an event's tagged form."""
    return isinstance(argument, dict) and argument.get("__type__") == WIRE_TYPE


def with_event(item: Item, message: Message, value: bytes) -> Item:
    """Return *item* such that its event's JSON text, *value*, can be had from it."""
    try:
        if is_event(first_argument(message.raw_body)):
            return item
    except (LookupError, TypeError):  # a body of another form
        pass
    task_id = IdWithEvent(item[1])
    task_id.value = value
    return item[0], task_id, item[2], item[3]


def event_text(body: bytes, content_type: str, content_encoding: str, compression: str | None) -> bytes:
    """Return the JSON text of the event in a message's body."""
    if compression:
        body = decompress(body, compression)
    event = first_argument(loads(body, content_type, content_encoding, accept={content_type}))
    assert isinstance(event, Event)
    return event.to_json()
