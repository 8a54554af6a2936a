"""What travels between the planner and the writers: lanes, items, batches, and the writer's interface."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from walex_celery.broker.collect import Message


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """Where the messages of one task go: within a lane their order is kept.

    Attributes:
        task: the Celery task's name, for errors.
        exchange: the exchange's name; empty for the default exchange.
        routing_key: on the default exchange this is the queue's name.
        priority: what the transport makes of it (Redis: the step that the queue's key ends in).
        declare: kombu queues and exchanges that must exist before a message is written.
    """

    task: str
    exchange: str
    routing_key: str
    priority: int
    declare: tuple[Any, ...] = ()

    @property
    def target(self) -> str:
        """The destination as an operator knows it, for errors."""
        if not self.exchange:
            return f"queue {self.routing_key!r}"
        return f"exchange {self.exchange!r} with routing key {self.routing_key!r}"


#: (lane, task id, head, body): what one message is on the wire. Redis: the whole envelope is the head.
#: AMQP: the method and header frames, and the body's frame, which the functions of one event share.
#: A plain tuple, because it is made once a task: a NamedTuple costs 0.3 us more.
Item = tuple[Lane, str, bytes, bytes]


@dataclass(slots=True, eq=False)
class Batch:
    """What one flush took: kept until the broker confirmed all of it.

    Attributes:
        items: in the order they were added.
        size_bytes: of all items.
        serial: number of the flush.
        position: stored with the batch in exactly-once mode.
        generation: the writer's connection that ``written`` speaks of.
        written: how many items were put on that connection.
        first_tag: delivery tag of the first item on that connection (AMQP).
    """

    items: list[Item]
    size_bytes: int
    serial: int = 0
    position: int | None = None
    generation: int = -1
    written: int = 0
    first_tag: int = 0

    def keep(self, items: list[Item]) -> None:
        """Forget all but ``items``, which are to be written again."""
        self.items = items
        self.size_bytes = sum(len(item[2]) + len(item[3]) for item in items)
        self.generation = -1
        self.written = 0


class Template(Protocol):
    """Fills the holes of a captured message."""

    def __call__(self, task_id: str, value: bytes, argsrepr: str, head: bytes = b"") -> Item | None:
        """Return the message of one task, or None where it can't hold such a task id; see ``Publisher.add``."""


class Writer(Protocol):
    """One kind of broker connection: encodes messages, writes batches in order, waits for confirmations.

    Attributes:
        has_heartbeats: :meth:`idle` is to be called about once a second while nothing is published.
        one_at_a_time: a batch is written only after the one before was confirmed.
    """

    has_heartbeats: bool
    one_at_a_time: bool

    def template(self, message: Message) -> Template | None:
        """Return a template made of a message captured with the sentinels, or None where there is none."""

    def encode(self, message: Message) -> Item:
        """Return a collected message as it goes onto the wire."""

    def same(self, one: Item, other: Item) -> bool:
        """Whether two items are the same message, but for what is unique by chance."""

    def declare(self, entities: Iterable[Any]) -> None:
        """Connect if needed and declare queues and exchanges."""

    def resume(self, batches: list[Batch]) -> None:
        """Connect if needed; then drop from ``batches`` what is known to be in the broker already."""

    def write(self, batch: Batch) -> None:
        """Write what of the batch is not yet on the present connection."""

    def confirm(self, batches: list[Batch], count: int) -> None:
        """Wait until the first ``count`` are confirmed; on failure leave in all what must be written again."""

    def idle(self) -> None:
        """Serve heartbeats; never blocks."""

    def publish_events(self, events: list[dict[str, Any]]) -> None:
        """Publish task-sent events as one message."""

    def describe(self) -> str:
        """Return the broker's address without its password, and how it confirms."""

    def close(self) -> None:
        """Close the connection; never raises."""
