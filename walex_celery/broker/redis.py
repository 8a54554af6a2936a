"""Redis and Valkey: one ``LPUSH key v1 ... vN`` a queue, pipelined; the replies are the confirmation.

Keys, priorities, prefixes and bindings come from kombu's own channel, so that a message lands where a
worker looks for it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from kombu.common import maybe_declare
from kombu.utils.json import dumps, loads

from walex_celery._failpoints import failpoint
from walex_celery.broker.body import Bodies
from walex_celery.broker.collect import Message
from walex_celery.broker.envelope import EnvelopeTemplate, base64_body
from walex_celery.broker.events import EventPublisher
from walex_celery.broker.exactly_once import StoredPosition
from walex_celery.broker.link import Link, is_login_error
from walex_celery.broker.redis_errors import is_reply, mend, passes, reply_text
from walex_celery.broker.resp import packed
from walex_celery.broker.wire import Batch, Item, Lane, Template
from walex_celery.errors import Fenced, PublishRefused, WalExError

logger = logging.getLogger(__name__)

Stepped = TypeVar("Stepped")


@dataclass(slots=True)
class _Sent:
    """What each reply to a batch is about, and the targets of each lane."""

    targets: list[str]
    of_lane: dict[Lane, list[str]]


class RedisWriter:
    """Writes batches to Redis or Valkey.

    Args:
        link: the connection.
        exactly_once: the position of the last batch is stored with its tasks, once :meth:`take_over` said where.
    """

    has_heartbeats = False

    def __init__(self, link: Link, *, exactly_once: bool = False) -> None:
        self._link = link
        self.one_at_a_time = exactly_once  # a position stands for all before it
        self._stored: StoredPosition | None = None
        self._position: int | None = None  # as it was when the connection was made
        self._socket: Any = None  # a redis.Connection of kombu's own pool
        self._pool: Any = None
        self._channel: Any = None
        self._generation = 0
        self._sent: list[_Sent] = []  # of each batch on the wire
        self._lanes: dict[tuple[Any, ...], Lane] = {}
        self._events = EventPublisher(link.app, link.sender)
        self._bodies = Bodies(base64_body())
        self._expiring: dict[str, int] = {}  # queues with x-expires, of the batch being written
        self._shape = _shape(link)

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
        return self._lane(message, priority), message.task_id, dumps(envelope).encode(), b""

    def _lane(self, message: Message, priority: int) -> Lane:
        # Kept by what it says, so that messages collected one by one share theirs.
        # Queues by identity, because hashing them is slow; the lane keeps them alive.
        declare = tuple(map(id, message.declare))
        key = (message.task, message.exchange, message.routing_key, priority, declare)
        lane = self._lanes.get(key)
        if lane is None:
            lane = Lane(message.task, message.exchange, message.routing_key, priority, message.declare)
            if len(self._lanes) > 10_000:  # routing keys made of ids would grow it for ever
                self._lanes.clear()
            self._lanes[key] = lane
        return lane

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

    # --- connection ---------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._socket is not None:
            return
        link = self._link
        try:
            link.connect()
            channel: Any = link.connection.default_channel
            pool = channel.pool
            connection = pool.get_connection()
            connection.connect()
        except WalExError:
            raise
        except Exception as error:
            self._fail()
            raise self._translate(error, "could not be reached") from error
        self._channel, self._pool, self._socket = channel, pool, connection
        self._generation += 1
        self._sent.clear()
        if self._stored is not None:
            self._position = self._with_client(self._stored.open, "did not say how far it got")

    def _is_stale(self) -> bool:
        """Whether the server hung up on the idle connection (its ``timeout``): then open another."""
        try:
            if not self._socket.can_read(0):
                return False
        except Exception as error:
            logger.debug("idle connection lost: %r", error)
        self._fail()
        return True

    def _fail(self) -> None:
        """Drop the connection: what its unread replies would have said is unknown."""
        with contextlib.suppress(Exception):
            if self._socket is not None:
                self._socket.disconnect()
                self._pool.release(self._socket)
        self._socket = self._channel = self._pool = None
        self._sent.clear()
        self._events.forget()
        self._link.next_host()

    def _translate(self, error: Exception, what: str) -> WalExError:
        if is_login_error(error) or (is_reply(error) and not passes(error)):
            return self._refusal(reply_text(error), "its tasks" if what.startswith("did") else what)
        return self._link.unavailable(what, error)

    def _refusal(self, text: str, what: str) -> PublishRefused:
        said = self._link.scrub(text).rstrip(".")
        return PublishRefused(f"The broker {self._link.url} refused {what}: {said}.{mend(text)}")

    def declare(self, entities: Iterable[Any]) -> None:
        """Declare queues and exchanges as kombu does: bindings are sets in Redis."""
        self._open()
        for entity in entities:
            try:
                maybe_declare(entity, self._channel)
            except Exception as error:
                self._fail()
                if is_reply(error) and not passes(error):
                    raise self._refusal(reply_text(error), f"the declaration of {entity.name!r}") from error
                raise self._translate(error, f"did not declare {entity.name!r}") from error

    def _keys(self, lane: Lane) -> list[str]:
        """Return the lists that a worker of the lane's queues pops from; bindings as they are now."""
        channel = self._channel
        if not lane.exchange:
            queues = [lane.routing_key]
        else:
            queues = [q for q in channel._lookup(lane.exchange, lane.routing_key) if q]
            if not queues:
                raise PublishRefused(
                    f"No queue is bound to {lane.target}, where task {lane.task!r} goes. "
                    "Start a worker that consumes it, or name it in task_queues."
                )
        self._expiring.update(
            (queue, channel._expires[queue]) for queue in queues if queue in channel._expires
        )
        return [channel._q_for_pri(queue, lane.priority) for queue in queues]

    # --- writing ------------------------------------------------------------------------------------

    def resume(self, batches: list[Batch]) -> None:
        """Connect; in exactly-once mode drop the batches whose position is stored already."""
        if self._socket is not None and (self._sent or not self._is_stale()):
            return
        self._open()

    def drop_stored(self, batches: list[Batch]) -> None:
        """In exactly-once mode, drop the batches that the broker has already."""
        stored = self._position
        if stored is not None:
            # Only what an earlier connection wrote, and got no answer to, can be.
            batches[:] = [
                b for b in batches if b.generation == self._generation or (b.position or 0) > stored
            ]

    def take_over(self, key: str) -> int | None:
        """Take over the position under *key* from whoever had it, and return it; what is under way is forgotten."""
        if self._sent:
            self._fail()
        self._stored = None
        self._open()
        self._stored = StoredPosition(self._prefixed(key))
        self._position = None
        return self._with_client(self._stored.open, "did not say how far it got")

    def reset_position(self) -> None:
        """Forget the stored position."""
        assert self._stored is not None
        self._open()
        self._position = None
        self._with_client(self._stored.reset, "did not forget how far it got")

    def _with_client(self, step: Callable[[Any], Stepped], what: str) -> Stepped:
        try:
            with self._channel.conn_or_acquire() as client:
                return step(client)
        except Fenced:
            raise
        except Exception as error:
            self._fail()
            raise self._translate(error, what) from error

    def _prefixed(self, key: str) -> str:
        return f"{self._channel.global_keyprefix}{key}"

    def write(self, batch: Batch) -> None:
        """Send the batch's commands; their replies are read by :meth:`confirm`."""
        if batch.generation == self._generation and batch.written == len(batch.items):
            return
        self._open()
        self.declare({entity for lane in {item[0] for item in batch.items} for entity in lane.declare})
        try:
            commands, sent = self._commands(batch)
        except WalExError:
            raise
        except Exception as error:
            self._fail()
            raise self._translate(error, "did not answer a look-up of its bindings") from error
        try:
            self._socket.send_packed_command([packed(commands)], check_health=False)
        except Exception as error:
            self._fail()
            raise self._translate(error, f"did not take what was written{_largest(batch)}") from error
        self._sent.append(sent)
        batch.generation, batch.written = self._generation, len(batch.items)

    def _commands(self, batch: Batch) -> tuple[list[tuple[Any, ...]], _Sent]:
        """Return the commands that put the batch's messages where they belong."""
        self._expiring.clear()
        lists: dict[str, list[bytes]] = {}
        others: list[tuple[Any, ...]] = []
        of_lane: dict[Lane, list[str]] = {}
        for lane, _, envelope, _ in batch.items:
            targets = of_lane.get(lane)
            if targets is None:
                targets = of_lane[lane] = self._targets(lane, lists)
            for target in targets:
                lists[target].append(envelope)
        pushed: dict[str, list[bytes]] = {}
        keys: list[str] = []
        other_keys: list[str] = []
        for target, envelopes in lists.items():
            command, _, name = target.partition(" ")
            if command == "LPUSH":
                pushed[self._prefixed(name)] = envelopes
                keys.append(target)
            else:
                others.extend(("PUBLISH", self._prefixed(name), envelope) for envelope in envelopes)
                other_keys.extend(target for _ in envelopes)
        channel = self._channel
        for queue, milliseconds in self._expiring.items():
            for step in channel.priority_steps:
                others.append(("PEXPIRE", self._prefixed(channel._q_for_pri(queue, step)), milliseconds))
                other_keys.append("")
        if self._stored is not None:
            assert batch.position is not None
            return [self._stored.store(batch.position, pushed, others)], _Sent(keys[:1] or [""], of_lane)
        pushes = [("LPUSH", key, *envelopes) for key, envelopes in pushed.items()]
        return [*pushes, *others], _Sent(keys + other_keys, of_lane)

    def _targets(self, lane: Lane, lists: dict[str, list[bytes]]) -> list[str]:
        channel = self._channel
        if lane.exchange and channel.typeof(lane.exchange).type == "fanout":
            topics = channel._get_publish_topics(lane.exchange, lane.routing_key)
            targets = [f"PUBLISH {topic}" for topic in topics]
        else:
            targets = [f"LPUSH {key}" for key in self._keys(lane)]
        for target in targets:
            lists.setdefault(target, [])
        return targets

    # --- confirming ---------------------------------------------------------------------------------

    def confirm(self, batches: list[Batch], count: int) -> None:
        """Read a reply for each command sent."""
        if any(b.generation != self._generation or b.written != len(b.items) for b in batches[:count]):
            raise self._link.unavailable("did not take all tasks")
        refused: list[tuple[Batch, str, Exception]] = []
        for index, sent in enumerate(self._sent):
            if index >= count and not refused:
                break  # after a refusal all replies are read, so that no more than needed is sent again
            refused += [(batches[index], target, error) for target, error in self._read(sent)]
        sent_batches = self._sent
        self._sent = sent_batches[count:]
        if refused:
            self._sent = []
            self._refused(batches, sent_batches, refused)

    def _read(self, sent: _Sent) -> Iterator[tuple[str, Exception]]:
        """Read the replies to a batch; yield what was refused, and why."""
        failpoint("reply-unread")
        for target in sent.targets:
            try:
                self._socket.read_response()
            except Exception as error:
                if not is_reply(error):
                    self._fail()
                    raise self._translate(error, "did not confirm what was written") from error
                yield target, error

    def _refused(
        self, batches: list[Batch], sent_batches: list[_Sent], refused: list[tuple[Batch, str, Exception]]
    ) -> None:
        """Keep, from its first refusal on, what goes to a refused queue; and say so."""
        errors = [error for _, _, error in refused]
        if self._stored is not None and (fenced := self._stored.fenced(errors[0])) is not None:
            for batch in batches:
                batch.keep(batch.items)  # never to be taken for confirmed
            raise fenced
        targets: set[str] = set()
        for batch, sent in zip(batches, sent_batches, strict=False):
            targets.update(target for failed, target, _ in refused if failed is batch)
            whole = self._stored is not None  # all of it or nothing
            batch.keep([i for i in batch.items if whole or not targets.isdisjoint(sent.of_lane[i[0]])])
        passing = next((error for error in errors if passes(error)), None)
        if passing is not None or reply_text(errors[0]).startswith("READONLY"):
            self._fail()  # a failover may have moved the primary: look for it anew
        if passing is not None:
            raise self._link.unavailable("can't take tasks yet", passing) from passing
        lanes = [item[0] for batch in batches for item in batch.items]
        tasks = ", ".join(sorted({lane.task for lane in lanes}))
        goals = ", ".join(sorted({lane.target for lane in lanes}))
        raise self._refusal(reply_text(errors[0]), f"{tasks} for {goals}") from errors[0]

    # --- the rest -----------------------------------------------------------------------------------

    def idle(self) -> None:
        """Nothing to do: Redis has no heartbeats."""

    def publish_events(self, events: list[dict[str, Any]]) -> None:
        """Publish task-sent events as one ``task.multi``."""
        self._open()
        self._events.publish(self._channel, events)

    def describe(self) -> str:
        """Return the address, and how it confirms."""
        once = ", exactly once" if self.one_at_a_time else ""
        return f"{self._link.url} (replies awaited{once})"

    def close(self) -> None:
        """Close the connection; never raises."""
        with contextlib.suppress(Exception):
            if self._socket is not None:
                self._socket.disconnect()
                self._pool.release(self._socket)
        self._socket = None
        self._link.close()


def _largest(batch: Batch) -> str:
    """What to look at when the server hangs up while a very large message is written; often its answer is lost."""
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
