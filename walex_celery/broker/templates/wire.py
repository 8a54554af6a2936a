"""What templates make: messages as they go onto the wire, and the addresses that these go to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, eq=False)
class Address:
    """Where messages of one task go, by exchange and routing key: messages of an address keep their order.

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

    def __str__(self) -> str:
        """The queue, or exchange and routing key, as an operator knows them."""
        if not self.exchange:
            return f"queue {self.routing_key!r}"
        return f"exchange {self.exchange!r} with routing key {self.routing_key!r}"


#: (address, task id, head, body): one message on the wire. Redis: the whole envelope is the head.
#: AMQP: the method and header frames, and the body's frame, which the functions of one event share.
#: A plain tuple, because one is made for each task: a NamedTuple costs 0.3 us more.
Item = tuple[Address, str, bytes, bytes]


class Template(Protocol):
    """Fills the holes of a captured message."""

    def __call__(self, task_id: str, value: bytes, argsrepr: str, head: bytes = b"") -> Item | None:
        """Return the message of one task, or None if it can't hold such a task id; see ``Publisher.add``."""
