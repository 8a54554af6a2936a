"""Any other kombu transport: its own channel publishes message by message."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from kombu.common import maybe_declare

from walex_celery.broker.driver import Batch
from walex_celery.broker.events import EventPublisher
from walex_celery.broker.link import Link, is_login_error
from walex_celery.broker.templates.argument import event_text
from walex_celery.broker.templates.body import bytes_of
from walex_celery.broker.templates.collect import Message
from walex_celery.broker.templates.wire import Address, Item
from walex_celery.errors import MessageTooLarge, PublishRefused, WalExError

#: How transports say that a message is too large, and what the limit is called.
_TOO_LARGE: Final = {
    r"Message must be shorter than (\d+) bytes": "Amazon SQS' limit",
    r"Message size too large|MSG_SIZE_TOO_LARGE": "Kafka's message.max.bytes",
    r"DocumentTooLarge|BSON document too large": "MongoDB's limit for a document",
}


@dataclass(frozen=True, slots=True, eq=False)
class _MessageAddress(Address):
    """The address of one message, which kombu's channel prepares when it is written."""

    message: Message | None = None


class KombuWriter:
    """Writes batches through kombu; a publish that returned is taken as confirmed."""

    has_heartbeats = True
    one_at_a_time = False
    exactly_once = None

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channel: Any = None
        self._generation = 0
        self._events = EventPublisher(link.app, link.sender)

    def encode(self, message: Message) -> Item:
        """Keep the message: its form on the wire is known to the transport only."""
        address = _MessageAddress(
            message.task,
            message.exchange,
            message.routing_key,
            message.priority or 0,
            message.declare,
            message,
        )
        return address, message.task_id, b"", bytes_of(message.body)

    def template(self, message: Message) -> None:
        """Return None: there is no template for a transport whose wire we don't know."""
        return None

    def same(self, one: Item, other: Item) -> bool:
        """Without templates there is nothing to compare."""
        return False

    def event_text(self, item: Item) -> bytes:
        """Decode the message's body."""
        message = item[0].message  # type: ignore[attr-defined]
        return event_text(item[3], message.content_type, message.content_encoding, message.compression)

    def _open(self) -> None:
        if self._channel is not None:
            return
        self._link.connect()
        try:
            self._channel = self._link.connection.default_channel
        except Exception as error:
            self._fail()
            raise self._link.unavailable("could not be reached", error) from error
        self._generation += 1

    def _fail(self) -> None:
        self._channel = None
        self._events.forget()
        self._link.next_host()

    def declare(self, entities: Iterable[Any]) -> None:
        """Declare queues and exchanges."""
        self._open()
        try:
            for entity in entities:
                maybe_declare(entity, self._channel)
        except Exception as error:
            self._fail()
            raise self._translate(error, "its queues") from error

    def _translate(self, error: Exception, what: str) -> WalExError:
        # transport_cls has been resolved by now, so the transport's own lists of errors can be asked.
        connection = self._link.connection
        if isinstance(error, connection.connection_errors) and not is_login_error(error):
            return self._link.unavailable("failed while publishing", error)
        return PublishRefused(f"The broker {self._link.url} refused {what}: {self._link.scrub(repr(error))}.")

    def resume(self, batches: list[Batch]) -> None:
        """Connect if needed; what was published stays published."""
        for batch in batches:
            if 0 < batch.written < len(batch.items):
                batch.keep(batch.items[batch.written :])
        self._open()

    def write(self, batch: Batch) -> None:
        """Publish what was not published yet: a message is gone once its publish returned."""
        self._open()
        if batch.generation != self._generation:
            batch.generation = self._generation
            # What was published through an earlier connection stays published.
        while batch.written < len(batch.items):
            address = batch.items[batch.written][0]
            message = getattr(address, "message", None)
            assert message is not None
            try:
                self.declare(address.declare)
                prepared = self._channel.prepare_message(
                    message.body, message.priority, message.content_type, message.content_encoding,
                    dict(message.headers), dict(message.properties),
                )  # fmt: skip
                self._channel.basic_publish(
                    prepared, exchange=address.exchange, routing_key=address.routing_key
                )
            except WalExError:
                raise
            except Exception as error:
                if (refused := self._too_large(batch.items[batch.written], error)) is not None:
                    raise refused from error
                self._fail()
                raise self._translate(error, f"task {address.task!r} for {address}") from error
            batch.written += 1

    def _too_large(self, item: Item, error: Exception) -> MessageTooLarge | None:
        """Return the error for a message over the transport's limit, if that is what *error* says."""
        for words, limit in _TOO_LARGE.items():
            if (found := re.search(words, repr(error))) is not None:
                limit_bytes = int(found[1]) if found.groups() else None
                return self._link.too_large(
                    [(item, len(item[3]))], limit_bytes, limit, "raise it, if it can be"
                )
        return None

    def confirm(self, batches: list[Batch], count: int) -> None:
        """Check that all was published."""
        if any(batch.written != len(batch.items) for batch in batches[:count]):
            raise self._link.unavailable("did not take all messages")

    def idle(self) -> None:
        """Serve heartbeats where the transport has them."""
        if self._channel is not None and self._link.connection.supports_heartbeats:
            with contextlib.suppress(Exception):
                self._link.connection.heartbeat_check()

    def publish_events(self, events: list[dict[str, Any]]) -> None:
        """Publish task-sent events as one ``task.multi``."""
        self._open()
        self._events.publish(self._channel, events)

    def describe(self) -> str:
        """Return the address, and how it confirms."""
        return f"{self._link.url} (kombu's own publish)"

    def close(self) -> None:
        """Close the connection; never raises."""
        self._channel = None
        self._link.close()
