"""What a broker driver is: how messages are encoded, written and confirmed, and what the broker may lose.

A driver is a package in this room, listed in :mod:`walex_celery.broker.drivers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from walex_celery.broker.position import Position
from walex_celery.broker.templates.wire import Item, Template
from walex_celery.errors import PublishRefused

if TYPE_CHECKING:
    from walex_celery.broker.durability import Weakness
    from walex_celery.broker.link import Link
    from walex_celery.broker.templates.collect import Message
    from walex_celery.broker.templates.target import TaskTarget


@dataclass(slots=True, eq=False)
class Batch:
    """The messages of one flush, kept until the broker has confirmed them all.

    Attributes:
        items: in the order they were added.
        size_bytes: of all items.
        serial: number of the flush.
        position: stored with the batch in exactly-once mode.
        generation: the writer's connection that ``written`` refers to.
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
        """Forget all but ``items``, which must be written again."""
        self.items = items
        self.size_bytes = sum(len(item[2]) + len(item[3]) for item in items)
        self.generation = -1
        self.written = 0


class Encoder(Protocol):
    """Makes the bytes of messages."""

    def template(self, message: Message) -> Template | None:
        """Return a template made of a message captured with the sentinels, or None if it can't be one."""

    def encode(self, message: Message) -> Item:
        """Return a collected message as it goes onto the wire."""

    def same(self, one: Item, other: Item) -> bool:
        """Whether two items are the same message, apart from what is unique by chance."""

    def event_text(self, item: Item) -> bytes:
        """Return the JSON text of the event in a message that was made by a template, or collected unchanged."""


class ConfirmedWrites(Protocol):
    """Writes batches in order, and waits for their confirmations; connects when needed."""

    def declare(self, entities: Iterable[Any]) -> None:
        """Declare queues and exchanges."""

    def resume(self, batches: list[Batch]) -> None:
        """Drop from ``batches`` what is known to be in the broker already."""

    def write(self, batch: Batch) -> None:
        """Write the part of the batch that is not yet on the present connection.

        Raises:
            MessageTooLarge: and nothing of the batch counts as written that :meth:`resume` does not know of.
        """

    def confirm(self, batches: list[Batch], count: int) -> None:
        """Wait until the first ``count`` are confirmed; on failure leave in all what must be written again.

        Raises:
            MessageTooLarge: as :meth:`write`.
        """

    def publish_events(self, events: list[dict[str, Any]]) -> None:
        """Publish task-sent events as one message, unconfirmed."""


class Writer(Encoder, ConfirmedWrites, Protocol):
    """One connection to a broker.

    Attributes:
        has_heartbeats: :meth:`idle` must be called about once a second while nothing is published.
        one_at_a_time: a batch is written only after the one before was confirmed.
    """

    has_heartbeats: bool
    one_at_a_time: bool

    @property
    def exactly_once(self) -> ExactlyOnce | None:
        """The capability, if the broker has it and it was asked for."""

    def idle(self) -> None:
        """Serve heartbeats; never blocks."""

    def describe(self) -> str:
        """Return the broker's address without its password, and how it confirms."""

    def close(self) -> None:
        """Close the connection; never raises."""


class ExactlyOnce(Protocol):
    """A broker that stores a position together with tasks, all or nothing."""

    def take_over(self, key: str) -> Position | None:
        """Take over the position under *key* and return it; another publisher that had it is refused from now on."""

    def drop_stored(self, batches: list[Batch]) -> None:
        """Drop the batches that the broker has stored already."""

    def reset_position(self) -> None:
        """Forget the stored position."""

    def leave(self, note: str) -> None:
        """Store a note for whoever takes over next, who alone gets it."""


class Driver(Protocol):
    """What the package of a driver exports."""

    def deadlines(self, timeout_seconds: float) -> Mapping[str, Any]:
        """Return the transport options that make waits on the broker end; the user's own take precedence."""

    def open_writer(self, link: Link, *, exactly_once: bool) -> Writer:
        """Return a writer, which connects when first needed; ``exactly_once`` if it should and can."""

    def weaknesses(self, link: Link, targets: Iterable[TaskTarget]) -> Iterator[Weakness]:
        """Examine what the broker may lose after confirming it; nothing if that is not known.

        Raises:
            BrokerUnavailable, PublishRefused: it had to be asked, and can't be.
        """

    def refusal_of(self, link: Link, error: Exception, what: str) -> PublishRefused | None:
        """Return the error, with its fix, for *what* the broker refused; ``None`` for any other error."""

    def guard(self, link: Link, channel: Any) -> None:
        """Have a consumer on *channel* end with the broker's refusal where kombu would try again for ever."""
