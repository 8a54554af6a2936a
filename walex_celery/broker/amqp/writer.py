"""RabbitMQ: a channel of its own in confirm mode, many mandatory publishes in one write.

py-amqp does the handshake, heartbeats and acknowledgements; the frames of the publishes are written
straight to its transport, because its own publish reads the socket before each message.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterable
from typing import Any

from amqp import exceptions
from kombu.common import maybe_declare

from walex_celery.broker.amqp import frames
from walex_celery.broker.amqp.confirms import Confirms
from walex_celery.broker.driver import Batch
from walex_celery.broker.events import EventPublisher
from walex_celery.broker.link import Link
from walex_celery.broker.templates.argument import event_text
from walex_celery.broker.templates.collect import Message
from walex_celery.broker.templates.wire import Address, Item, Template
from walex_celery.errors import MessageTooLarge, PublishRefused, WalExError

#: Unconfirmed messages and bytes on the wire; more gains nothing (5,000 keeps four queues busy).
WINDOW = 5_000
WINDOW_BYTES = 64 << 20
#: One write: large enough to cost nothing a message, small enough that a blocked broker shows in between.
WRITE_COUNT = 1_000
WRITE_BYTES = 1 << 20

#: Reply codes of errors that close the connection and come again at each try, and what fixes them.
_REFUSALS = {
    402: "Correct the virtual host in broker_url",
    503: "Enable the plugin that the exchange or queue needs, or correct its type",
    530: "Correct the virtual host in broker_url or the user's permissions, or see the broker's log",
    540: "Correct the options of the queue or exchange: the broker does not have that feature",
}


#: How RabbitMQ words it (rabbit_channel.erl), since 3.8.
_TOO_LARGE = re.compile(r"message size (\d+) (?:is )?larger than (?:configured )?max size (\d+)")
_RAISE_LIMIT = (
    "raise max_message_size in rabbitmq.conf and restart RabbitMQ (at most 536870912; "
    "`rabbitmqctl eval 'application:set_env(rabbit, max_message_size, N).'` does without a restart)"
)


class AmqpWriter:
    """Writes batches to RabbitMQ."""

    has_heartbeats = True
    one_at_a_time = False
    exactly_once = None

    def __init__(self, link: Link) -> None:
        self._link = link
        self._amqp: Any = None  # the py-amqp connection
        self._channel: Any = None
        self._generation = 0
        self._confirms = Confirms()
        self._blocked: str | None = None
        self._noticed: Exception | None = None  # what ended channel or connection while idle
        self._addresses: dict[tuple[Any, ...], Address] = {}
        self._bodies = frames.frame_bodies()
        self._events = EventPublisher(link.app, link.sender)

    # --- messages -----------------------------------------------------------------------------------

    def encode(self, message: Message) -> Item:
        """Return the frames that py-amqp would write, with ``mandatory`` set."""
        return frames.encode(self._address(message), message)

    def _address(self, message: Message) -> Address:
        # Queues by identity, because hashing them is slow; the address keeps them alive.
        declare = tuple(map(id, message.declare))
        key = (message.task, message.exchange, message.routing_key, declare)
        address = self._addresses.get(key)
        if address is None:
            if len(self._addresses) > 10_000:  # routing keys made of ids would grow it without end
                self._addresses.clear()
            address = Address(message.task, message.exchange, message.routing_key, 0, message.declare)
            self._addresses[key] = address
        return address

    def template(self, message: Message) -> Template | None:
        """Split the frames at the holes."""
        template = frames.FramesTemplate.of(self._address(message), message, self._bodies)
        return None if template is None else template.fill

    def same(self, one: Item, other: Item) -> bool:
        """Compare the frames, byte for byte."""
        return one == other

    def event_text(self, item: Item) -> bytes:
        """Read it out of the frames."""
        message = frames.decode(item)
        headers = message.application_headers or {}
        return event_text(
            message.body, message.content_type, message.content_encoding, headers.get("compression")
        )

    # --- connection ---------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._is_open():
            return
        try:
            if self._amqp is None or not self._amqp.connected:
                self._drop()
                self._amqp = self._link.connect()
                self._blocked = None
                self._amqp.on_blocked = self._on_blocked
                self._amqp.on_unblocked = self._on_unblocked
            with self._amqp.transport.having_timeout(self._link.timeout_seconds):
                self._channel = self._amqp.channel(frames.CHANNEL)
                self._channel.confirm_select()
        except WalExError:
            raise
        except Exception as error:
            raise self._lost(error, "could not be reached") from error
        self._generation += 1
        self._confirms.attach(self._channel)

    def _is_open(self) -> bool:
        return self._channel is not None and bool(self._channel.is_open and self._amqp.connected)

    def _on_blocked(self, reason: str) -> None:
        self._blocked = reason

    def _on_unblocked(self) -> None:
        self._blocked = None

    def _drop(self) -> None:
        if self._amqp is not None:
            self._amqp = self._channel = None
            self._events.forget()
            self._link.drop()

    def _lost(self, error: Exception, what: str) -> WalExError:
        """Return the error for what went wrong; the connection or channel is opened again next time."""
        error = _reason(error)
        if isinstance(error, exceptions.ChannelError):
            # The broker closed the channel, not the connection, and said why.
            return self._channel_refusal(error)
        blocked = self._blocked
        self._drop()
        self._link.next_host()
        if isinstance(error, exceptions.AMQPError) and error.reply_code in _REFUSALS:
            text = self._link.scrub(str(error.reply_text)).rstrip(".")
            return PublishRefused(
                f"The broker {self._link.url} {what}, and closed the connection: {text}. {_REFUSALS[error.reply_code]}."
            )
        if blocked is not None:
            return self._blocked_error()
        return self._link.unavailable(what, error)

    def _channel_refusal(self, error: exceptions.ChannelError) -> PublishRefused:
        if (refused := self._too_large(str(error.reply_text))) is not None:
            self._close_channel()
            return refused
        address = self._confirms.guess(str(error.reply_text))
        if error.reply_code == 404:
            self._link.forget_declarations()
        fix = {
            404: "Create the exchange or queue, or correct the task's options",
            403: "Grant the user configure and write permission on it",
            405: "Another connection holds the queue exclusively",
            406: "Make both sides agree: the queue's or exchange's properties, or max_message_size",
        }.get(error.reply_code or 0, "See the broker's log")
        who = f"task {address.task!r} for {address}" if address else "a publish or declaration"
        self._close_channel()
        return PublishRefused(
            f"The broker {self._link.url} refused {who}: {self._link.scrub(str(error.reply_text))}. {fix}."
        )

    def _too_large(self, text: str) -> MessageTooLarge | None:
        """Return the error for messages over the broker's limit, if that is what it closed the channel for."""
        found = _TOO_LARGE.search(text)
        if found is None:
            return None
        size, limit = map(int, found.groups())
        sizes = [(item, frames.size_bytes(item)) for item in self._confirms.unanswered.values()]
        # Whatever the broker means by its limit, the message that it names exceeds it.
        over = [(item, own) for item, own in sizes if own > limit or own == size]
        if not over:
            return None
        return self._link.too_large(over, limit, "max_message_size", _RAISE_LIMIT)

    def _close_channel(self) -> None:
        """Close the channel that py-amqp reopened, not in confirm mode, so that the next one is new."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with (
                contextlib.suppress(Exception),
                self._amqp.transport.having_timeout(self._link.timeout_seconds),
            ):
                channel.close()

    def _blocked_error(self) -> WalExError:
        return self._link.unavailable(
            "blocks publishing (connection.blocked: a memory or disk alarm; "
            "see rabbitmq-diagnostics alarms, vm_memory_high_watermark, disk_free_limit)"
        )

    def declare(self, entities: Iterable[Any]) -> None:
        """Declare queues, exchanges and bindings, on a channel of their own."""
        self._open()
        name = ""
        try:
            with self._amqp.transport.having_timeout(self._link.timeout_seconds):
                channel = self._link.connection.default_channel
                for entity in entities:
                    name = entity.name
                    maybe_declare(entity, channel)
        except Exception as error:
            raise self._lost(error, f"did not declare {name!r}") from error

    # --- writing ------------------------------------------------------------------------------------

    def resume(self, batches: list[Batch]) -> None:
        """Connect if needed; what the lost connection had confirmed is not sent again."""
        self._raise_noticed()
        if not self._is_open():
            self._prune(batches)
        self._open()

    def write(self, batch: Batch) -> None:
        """Write what is not yet on this connection, by large writes within the window."""
        self._open()
        if batch.generation != self._generation:
            addresses = {item[0] for item in batch.items}
            self.declare({entity for address in addresses for entity in address.declare})
            batch.generation, batch.written = self._generation, 0
        items = batch.items
        while batch.written < len(items):
            self._await(lambda: self._blocked is None and self._confirms.room(WINDOW, WINDOW_BYTES))
            if batch.written == 0:
                batch.first_tag = self._confirms.next_tag
            data: list[bytes] = []
            size = 0
            end = batch.written
            frame_max = self._amqp.frame_max
            while end < len(items) and end - batch.written < WRITE_COUNT and size < WRITE_BYTES:
                _, _, head, body = items[end]
                data.append(head)
                if len(body) <= frame_max:
                    data.append(body)
                else:
                    data.extend(frames.split_body(body, frame_max))
                size += len(head) + len(body)
                end += 1
            try:
                with self._amqp.transport.having_timeout(self._link.timeout_seconds):
                    self._amqp.transport.write(b"".join(data))
            except Exception as error:
                raise self._lost(error, "did not take what was written") from error
            self._amqp.bytes_sent += 1  # what py-amqp's heartbeats go by
            self._confirms.sent(items[batch.written : end])
            batch.written = end
            self._drain(0)

    def _drain(self, timeout: float) -> bool:
        """Handle one event from the broker; False when there was none."""
        try:
            self._amqp.drain_events(timeout=timeout)
        except TimeoutError:
            return False
        except Exception as error:
            raise self._lost(error, "broke the connection") from error
        return True

    def _await(self, condition: Any) -> None:
        """Handle events until the condition holds; the deadline restarts with each confirmation."""
        deadline = time.monotonic() + self._link.timeout_seconds
        answered = self._confirms.answered
        self._raise_noticed()
        while not condition():
            if self._drain(min(1.0, max(0.0, deadline - time.monotonic()))):
                if self._confirms.answered != answered:
                    answered = self._confirms.answered
                    deadline = time.monotonic() + self._link.timeout_seconds
                continue
            self._heartbeat()
            if time.monotonic() >= deadline:
                if self._blocked is not None:
                    raise self._blocked_error()  # the connection is kept: the broker has what was written
                raise self._lost(TimeoutError(f"{self._link.timeout_seconds:g} s"), "did not confirm in time")

    def _raise_noticed(self) -> None:
        error, self._noticed = self._noticed, None
        if error is not None:
            raise self._lost(error, "broke the connection")

    def _heartbeat(self) -> None:
        try:
            self._amqp.heartbeat_tick()
        except Exception as error:
            raise self._lost(error, "missed its heartbeats") from error

    # --- confirming ---------------------------------------------------------------------------------

    def confirm(self, batches: list[Batch], count: int) -> None:
        """Wait for an answer to every message."""
        confirms = self._confirms
        if any(b.generation != self._generation or b.written != len(b.items) for b in batches[:count]):
            raise self._blocked_error() if self._blocked else self._link.unavailable("did not take all tasks")
        last = batches[count - 1]
        end = last.first_tag + len(last.items)
        self._await(lambda: confirms.refused or confirms.answered_below(end))
        if confirms.refused:
            self._await(lambda: not confirms.unanswered)  # so that no more than needed is sent again
            refusal = self._refusal()
            self._prune(batches)
            confirms.forget()
            raise refusal

    def _refusal(self) -> PublishRefused:
        confirms = self._confirms
        if confirms.returned:
            # Declared again before the next try, if the task's queue is one that Celery creates.
            self._link.forget_declarations()
            returned = next(iter(confirms.returned.values()))
            address = Address(returned.task, returned.exchange, returned.routing_key, 0)
            return PublishRefused(
                f"The broker {self._link.url} can't route task {address.task!r} to {address}: {returned.text} "
                f"({len(confirms.returned)} messages). Create the queue or its binding, "
                "or start a worker that consumes it."
            )
        addresses = set(confirms.nacked.values())
        tasks = ", ".join(sorted({repr(address.task) for address in addresses}))
        targets = ", ".join(sorted({str(address) for address in addresses}))
        return PublishRefused(
            f"The broker {self._link.url} refused {len(confirms.nacked)} messages of task {tasks} "
            f"for {targets} (nack): the queue is full (x-max-length with reject-publish) or unavailable. "
            "Let the workers catch up, or raise the limit."
        )

    def _prune(self, batches: list[Batch]) -> None:
        """Keep in each batch, per address, what follows the first message that is not safely in the broker."""
        open_addresses: set[Address] = set()
        for batch in batches:
            kept = []
            for index, item in enumerate(batch.items):
                sent = batch.generation == self._generation and index < batch.written
                if (
                    not sent
                    or item[0] in open_addresses
                    or not self._confirms.safe(batch.first_tag + index, item[1])
                ):
                    open_addresses.add(item[0])
                    kept.append(item)
            batch.keep(kept)

    # --- the rest -----------------------------------------------------------------------------------

    def idle(self) -> None:
        """Answer the broker's heartbeats, and notice when the connection is lost."""
        if self._amqp is None or self._channel is None:
            return
        try:
            self._amqp.heartbeat_tick()
            with self._amqp.transport.having_timeout(None):
                while self._poll():
                    pass
        except (OSError, exceptions.AMQPError) as error:
            if self._confirms.unanswered:
                self._noticed = error  # raised by the next confirm, which knows what it is about
            else:
                self._drop()

    def _poll(self) -> bool:
        try:
            self._amqp.drain_events(timeout=0)
        except (socket.timeout, TimeoutError):  # noqa: UP041
            return False
        return True

    def publish_events(self, events: list[dict[str, Any]]) -> None:
        """Publish task-sent events as one ``task.multi``, unconfirmed, on the channel for declarations."""
        try:
            with self._amqp.transport.having_timeout(self._link.timeout_seconds):
                done = self._events.publish(self._link.connection.default_channel, events)
        except Exception:
            done = False
        if not done:
            self._drop()  # it may have written half a frame

    def describe(self) -> str:
        """Return the address, and how it confirms."""
        return f"{self._link.url} (publisher confirms)"

    def close(self) -> None:
        """Close the connection; never raises."""
        with contextlib.suppress(Exception):
            # py-amqp waits for the broker's goodbye, without a deadline of its own.
            self._amqp.transport.sock.settimeout(min(5.0, self._link.timeout_seconds))
        self._amqp = self._channel = None
        self._link.close()


def _reason(error: Exception) -> Exception:
    """Return what the broker said when it closed the connection, if it did.

    py-amqp closes the socket then, so that resetting its timeout fails with "Bad file descriptor".
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, exceptions.AMQPError):
            return cause
        cause = cause.__context__
    return error
