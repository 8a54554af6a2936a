"""Redis and Valkey: one ``LPUSH key v1 ... vN`` a queue, pipelined; the replies are the confirmation.

Keys, priorities, prefixes and bindings come from kombu's own channel, so that a message lands where a
worker looks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Any, Final

from kombu.common import maybe_declare
from kombu.utils.json import dumps, loads

from walex_celery._failpoints import failpoint
from walex_celery.broker.driver import Batch
from walex_celery.broker.events import EventPublisher
from walex_celery.broker.link import Link
from walex_celery.broker.redis.connection import Expected, RedisConnection, Sent
from walex_celery.broker.redis.envelope import EnvelopeTemplate, base64_body
from walex_celery.broker.redis.errors import RAISE_LIMIT, is_reply, is_too_large, passes, reply_text
from walex_celery.broker.redis.position import StoredPosition
from walex_celery.broker.redis.resp import packed
from walex_celery.broker.templates.argument import event_text
from walex_celery.broker.templates.body import Bodies, bytes_of
from walex_celery.broker.templates.collect import Message
from walex_celery.broker.templates.wire import Address, Item, Template
from walex_celery.errors import MessageTooLarge, PublishRefused, WalExError

#: proto-max-bulk-len can't be less.
LEAST_LIMIT_BYTES: Final = 1 << 20


class RedisWriter:
    """Writes batches to Redis or Valkey.

    Args:
        link: the connection.
        exactly_once: the position of each batch is stored with its tasks, once it has been taken over.
    """

    has_heartbeats = False

    def __init__(self, link: Link, *, exactly_once: bool = False) -> None:
        self._link = link
        self._connection = RedisConnection(link)
        self._position = StoredPosition(self._connection) if exactly_once else None
        self.one_at_a_time = exactly_once  # a position covers all before it
        self._addresses: dict[tuple[Any, ...], Address] = {}
        self._events = EventPublisher(link.app, link.sender)
        self._bodies = Bodies(base64_body())
        self._expiring: dict[str, int] = {}  # queues with x-expires, of the batch being written
        self._shape = _shape(link)

    @property
    def exactly_once(self) -> StoredPosition | None:
        """The stored position, if it was asked for."""
        return self._position

    # --- messages -----------------------------------------------------------------------------------

    def encode(self, message: Message) -> Item:
        """Return the JSON envelope that kombu's channel would push."""
        shape = self._shape
        envelope = shape.prepare_message(
            message.body, message.priority, message.content_type,
            message.content_encoding, message.headers, dict(message.properties),
        )  # fmt: skip
        shape._inplace_augment_message(envelope, message.exchange, message.routing_key)
        priority = shape.priority(shape._get_message_priority(envelope, reverse=False))
        return self._address(message, priority), message.task_id, dumps(envelope).encode(), b""

    def _address(self, message: Message, priority: int) -> Address:
        # Kept by what it says, so that messages collected one by one share theirs.
        # Queues by identity, because hashing them is slow; the address keeps them alive.
        declare = tuple(map(id, message.declare))
        key = (message.task, message.exchange, message.routing_key, priority, declare)
        address = self._addresses.get(key)
        if address is None:
            address = Address(message.task, message.exchange, message.routing_key, priority, message.declare)
            if len(self._addresses) > 10_000:  # routing keys made of ids would grow it without end
                self._addresses.clear()
            self._addresses[key] = address
        return address

    def template(self, message: Message) -> Template | None:
        """Split the envelope at the holes."""
        template = EnvelopeTemplate.of(message, self.encode(message), self._bodies)
        return None if template is None else template.fill

    def same(self, one: Item, other: Item) -> bool:
        """Compare envelopes; only the delivery tag may differ."""
        first, second = loads(one[2]), loads(other[2])
        tags = [envelope["properties"].pop("delivery_tag", None) for envelope in (first, second)]
        text = one[2].replace(str(tags[0]).encode(), str(tags[1]).encode())
        return text == other[2] and one[0] is other[0]

    def event_text(self, item: Item) -> bytes:
        """Read it out of the envelope."""
        envelope = loads(item[2])
        body = self._shape.decode_body(envelope["body"], envelope["properties"].get("body_encoding"))
        headers = envelope.get("headers") or {}
        return event_text(
            bytes_of(body),
            envelope["content-type"],
            envelope["content-encoding"],
            headers.get("compression"),
        )

    # --- queues and bindings ---------------------------------------------------------------------------

    def declare(self, entities: Iterable[Any]) -> None:
        """Declare queues and exchanges as kombu does: bindings are sets in Redis."""
        connection = self._connection
        connection.open()
        for entity in entities:
            try:
                maybe_declare(entity, connection.channel)
            except Exception as error:
                connection.fail()
                if is_reply(error) and not passes(error):
                    raise connection.refusal(
                        reply_text(error), f"the declaration of {entity.name!r}"
                    ) from error
                raise connection.translate(error, f"did not declare {entity.name!r}") from error

    def _keys(self, address: Address) -> list[str]:
        """Return the lists that a worker of the address's queues pops from; bindings as they are now."""
        channel = self._connection.channel
        if not address.exchange:
            queues = [address.routing_key]
        else:
            queues = self._bound(address)
            if not queues and address.declare:
                # The bindings are gone, by a FLUSHALL or a failover. kombu remembers in two places that it made them.
                self._link.forget_declarations()
                for entity in address.declare:
                    channel.state.queue_bindings_delete(entity.name)
                self.declare(address.declare)
                queues = self._bound(address)
            if not queues:
                raise PublishRefused(
                    f"No queue is bound to {address}, where task {address.task!r} goes. "
                    "Start a worker that consumes it, or name it in task_queues."
                )
        self._expiring.update(
            (queue, channel._expires[queue]) for queue in queues if queue in channel._expires
        )
        return [channel._q_for_pri(queue, address.priority) for queue in queues]

    def _bound(self, address: Address) -> list[str]:
        return [q for q in self._connection.channel._lookup(address.exchange, address.routing_key) if q]

    def _operations(self, address: Address, messages: dict[str, list[bytes]]) -> list[str]:
        """Return what puts a message where its address says, in words; each gets a list in *messages*."""
        channel = self._connection.channel
        if address.exchange and channel.typeof(address.exchange).type == "fanout":
            topics = channel._get_publish_topics(address.exchange, address.routing_key)
            operations = [f"PUBLISH {topic}" for topic in topics]
        else:
            operations = [f"LPUSH {key}" for key in self._keys(address)]
        for operation in operations:
            messages.setdefault(operation, [])
        return operations

    # --- writing ------------------------------------------------------------------------------------

    def resume(self, batches: list[Batch]) -> None:
        """Connect; which batches are in the broker already, only a stored position tells."""
        connection = self._connection
        if connection.is_open and (connection.unanswered or not connection.is_stale()):
            return
        connection.open()

    def write(self, batch: Batch) -> None:
        """Send the batch's commands; their replies are read by :meth:`confirm`."""
        connection = self._connection
        if batch.generation == connection.generation and batch.written == len(batch.items):
            return
        connection.open()
        if batch.size_bytes > LEAST_LIMIT_BYTES:
            self._check_sizes(batch.items)
        addresses = {item[0] for item in batch.items}
        self.declare({entity for address in addresses for entity in address.declare})
        try:
            commands, sent = self._commands(batch)
        except WalExError:
            raise
        except Exception as error:
            connection.fail()
            raise connection.translate(error, "did not answer a look-up of its bindings") from error
        connection.send(packed(commands), lambda: f"did not take what was written{_largest(batch)}")
        connection.unanswered.append(sent)
        batch.generation, batch.written = connection.generation, len(batch.items)

    def _check_sizes(self, items: list[Item]) -> None:
        """Check that the server accepts messages of this size: it would close the connection, often without a word.

        Raises:
            MessageTooLarge: it does not accept some of them.
        """
        sizes = [(item, len(item[2])) for item in items if len(item[2]) > LEAST_LIMIT_BYTES]
        if not sizes:
            return
        connection = self._connection
        limit = connection.longest_bulk_bytes()
        if limit is not None:
            over = [(item, size) for item, size in sizes if size > limit]
        elif connection.was_lost:
            # Perhaps by such a message: the server's reply to it is mostly lost.
            largest = sorted({size for _, size in sizes}, reverse=True)
            refused = set(takewhile(lambda size: not connection.accepts_bulk(size), largest))
            over = [(item, size) for item, size in sizes if size in refused]
        else:
            return
        if over:
            raise self._link.too_large(over, limit, "proto-max-bulk-len", RAISE_LIMIT)

    def _too_large(self, batches: list[Batch]) -> MessageTooLarge:
        """Return the error after the server's word that a message is: the limit was lowered, or can't be read."""
        items = [item for batch in batches for item in batch.items]
        try:
            self._check_sizes(items)
        except MessageTooLarge as error:
            return error
        finally:
            self._connection.fail()  # the server has closed it
        largest = max(items, key=lambda item: len(item[2]))
        return self._link.too_large([(largest, len(largest[2]))], None, "proto-max-bulk-len", RAISE_LIMIT)

    def _commands(self, batch: Batch) -> tuple[list[tuple[Any, ...]], Sent]:
        """Return the commands that put the batch's messages where they belong."""
        self._expiring.clear()
        messages: dict[str, list[bytes]] = {}
        of_address: dict[Address, list[str]] = {}
        for address, _, envelope, _ in batch.items:
            operations = of_address.get(address)
            if operations is None:
                operations = of_address[address] = self._operations(address, messages)
            for operation in operations:
                messages[operation].append(envelope)
        prefixed = self._connection.prefixed
        lists: dict[str, list[bytes]] = {}
        others: list[tuple[Any, ...]] = []
        pushes: list[Expected] = []
        replies: list[Expected] = []  # to the others
        for operation, envelopes in messages.items():
            command, _, name = operation.partition(" ")
            if command == "LPUSH":
                lists[prefixed(name)] = envelopes
                pushes.append(Expected(operation, len(envelopes)))
            else:
                others.extend(("PUBLISH", prefixed(name), envelope) for envelope in envelopes)
                replies.extend(Expected(operation) for _ in envelopes)
        channel = self._connection.channel
        for queue, milliseconds in self._expiring.items():
            for step in channel.priority_steps:
                others.append(("PEXPIRE", prefixed(channel._q_for_pri(queue, step)), milliseconds))
                replies.append(Expected("PEXPIRE", 0, 1))
        if self._position is not None and self._position.is_held:
            return [self._position.command(batch, lists, others)], Sent([Expected("EVAL", 1, 1)], of_address)
        commands = [("LPUSH", key, *envelopes) for key, envelopes in lists.items()]
        return [*commands, *others], Sent(pushes + replies, of_address)

    # --- confirming ---------------------------------------------------------------------------------

    def confirm(self, batches: list[Batch], count: int) -> None:
        """Read a reply for each command sent."""
        connection = self._connection
        generation = connection.generation
        if any(b.generation != generation or b.written != len(b.items) for b in batches[:count]):
            raise self._link.unavailable("did not take all tasks")
        refused: list[tuple[Batch, str, Exception]] = []
        unanswered = connection.unanswered
        for index, sent in enumerate(unanswered):
            if index >= count and not refused:
                break  # after a refusal all replies are read, so that no more than needed is sent again
            failpoint("reply-unread")
            for expected in sent.replies:
                error = connection.read_refusal(expected)
                if error is not None:
                    if is_too_large(error):
                        raise self._too_large(batches) from error
                    refused.append((batches[index], expected.operation, error))
        connection.unanswered = unanswered[count:]
        if refused:
            connection.unanswered = []
            self._refused(batches, unanswered, refused)

    def _refused(
        self, batches: list[Batch], unanswered: list[Sent], refused: list[tuple[Batch, str, Exception]]
    ) -> None:
        """Keep the messages to a refused queue, from the first refusal on, and raise the error."""
        connection = self._connection
        errors = [error for _, _, error in refused]
        if self._position is not None and (fenced := self._position.fenced(errors[0])) is not None:
            for batch in batches:
                batch.keep(batch.items)  # never to be taken for confirmed
            raise fenced
        failed: set[str] = set()
        for batch, sent in zip(batches, unanswered, strict=False):
            failed.update(operation for of_batch, operation, _ in refused if of_batch is batch)
            # With a stored position, a batch is stored whole or not at all.
            whole = self._position is not None and self._position.is_held
            batch.keep([i for i in batch.items if whole or not failed.isdisjoint(sent.of_address[i[0]])])
        passing = next((error for error in errors if passes(error)), None)
        if passing is not None or reply_text(errors[0]).startswith("READONLY"):
            connection.fail()  # a failover may have moved the primary: look for it again
        if passing is not None:
            raise self._link.unavailable("can't take tasks yet", passing) from passing
        addresses = [item[0] for batch in batches for item in batch.items]
        tasks = ", ".join(sorted({address.task for address in addresses}))
        places = ", ".join(sorted({str(address) for address in addresses}))
        raise connection.refusal(reply_text(errors[0]), f"{tasks} for {places}") from errors[0]

    # --- the rest -----------------------------------------------------------------------------------

    def idle(self) -> None:
        """Nothing to do: Redis has no heartbeats."""

    def publish_events(self, events: list[dict[str, Any]]) -> None:
        """Publish task-sent events as one ``task.multi``."""
        self._connection.open()
        self._events.publish(self._connection.channel, events)

    def describe(self) -> str:
        """Return the address, and how it confirms."""
        once = ", exactly once" if self.one_at_a_time else ""
        return f"{self._link.url} (replies awaited{once})"

    def close(self) -> None:
        """Close the connection; never raises."""
        self._connection.close()


def _largest(batch: Batch) -> str:
    """Return a hint for a server that hangs up while a very large message is written: its reply is often lost."""
    size_bytes = max(len(item[2]) for item in batch.items)
    return (
        f" (its largest message has {size_bytes} bytes: see proto-max-bulk-len)"
        if size_bytes > 1 << 20
        else ""
    )


def _shape(link: Link) -> Any:
    """Return an unconnected channel of the transport's class, which knows its envelopes and keys."""
    cls: Any = type(link.connection.transport)
    channel = cls.Channel.__new__(cls.Channel)
    options = link.connection.transport_options or {}
    for name in cls.Channel.from_transport_options:
        if name in options:
            setattr(channel, name, options[name])
    channel.closed = True  # so that nothing tries to close it
    return channel
