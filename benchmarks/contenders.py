"""The contenders: their names, what each does with an event, and how many events it drains."""

from __future__ import annotations

from typing import Literal

import msgspec

from benchmarks.shapes import Shape

#: What is done with each event.
Work = Literal[
    "recvlogical",  # pg_recvlogical writes it to /dev/null
    "unsubscribed",  # the table is not subscribed
    "filtered",  # dropped by unwatched_records
    "one_column",  # a batch handler reads one column
    "all_columns",  # a batch handler reads them all
    "publish",  # a task
    "publish_three",  # three tasks
    "signal",  # a task, with a receiver of a publish signal connected
    "delay",  # a batch handler calls task.delay(event)
    "ready_made",  # nothing is read: prebuilt messages are written, with the same confirmations
]
Broker = Literal["valkey", "classic", "quorum"]

_TASKS_PER_EVENT = {"publish": 1, "signal": 1, "delay": 1, "ready_made": 1, "publish_three": 3}

BASELINE = "pg_recvlogical"


class Contender(msgspec.Struct, frozen=True):
    """One way to drain a backlog.

    Attributes:
        name: short, for options and results.
        title: for the report.
        work: what it does.
        broker: where tasks go; classic and quorum are queues of RabbitMQ.
        events: how many at scale 1, where the shape's number would take too long.
        shapes: names of the shapes it drains; empty for all.
        native: with the compiled part, where there is one.
    """

    name: str
    title: str
    work: Work
    broker: Broker = "valkey"
    events: int | None = None
    shapes: tuple[str, ...] = ()
    native: bool = True

    @property
    def tasks_per_event(self) -> int:
        """How many messages each event becomes."""
        return _TASKS_PER_EVENT.get(self.work, 0)

    def drains(self, shape: Shape) -> bool:
        """Whether it drains *shape*."""
        return not self.shapes or shape.name in self.shapes

    def size(self, shape: Shape, scale: float) -> int:
        """How many events of *shape* it drains."""
        events = shape.events if self.events is None else min(self.events, shape.events)
        return min(
            max(round(events * scale), shape.smallest), max(round(shape.events * scale), shape.smallest)
        )


_INSERTS = ("single", "thousand")
# Those with targets for single rows only, to keep a run short.
_SINGLE = ("single",)

CONTENDERS = (
    Contender(BASELINE, "`pg_recvlogical` to /dev/null", "recvlogical"),
    Contender("unsubscribed", "nothing subscribed", "unsubscribed"),
    Contender("filtered", "all filtered by `unwatched_records`", "filtered"),
    Contender("one-column", "batch handler, one column", "one_column"),
    Contender("all-columns", "batch handler, all columns", "all_columns", shapes=(*_INSERTS, "wide")),
    Contender("valkey", "one function, Valkey", "publish"),
    Contender(
        "valkey-plain", "one function, Valkey, all in Python", "publish", shapes=_INSERTS, native=False
    ),
    Contender("valkey-three", "three functions, Valkey", "publish_three", shapes=_SINGLE),
    Contender(
        "valkey-signal",
        "one function, Valkey, signal receiver",
        "signal",
        events=60_000,
        shapes=_SINGLE,
    ),
    Contender("valkey-delay", "`task.delay()`, Valkey", "delay", events=5_000, shapes=_SINGLE),
    Contender(
        "classic", "one function, RabbitMQ classic", "publish", "classic", events=50_000, shapes=_INSERTS
    ),
    Contender("quorum", "one function, RabbitMQ quorum", "publish", "quorum", events=50_000, shapes=_SINGLE),
    Contender(
        "classic-ready",
        "ready-made messages, RabbitMQ classic",
        "ready_made",
        "classic",
        events=50_000,
        shapes=_SINGLE,
    ),
    Contender(
        "quorum-ready",
        "ready-made messages, RabbitMQ quorum",
        "ready_made",
        "quorum",
        events=50_000,
        shapes=_SINGLE,
    ),
    Contender(
        "classic-delay",
        "`task.delay()`, RabbitMQ classic, `confirm_publish`",
        "delay",
        "classic",
        events=2_500,
        shapes=_SINGLE,
    ),
    Contender(
        "quorum-delay",
        "`task.delay()`, RabbitMQ quorum, `confirm_publish`",
        "delay",
        "quorum",
        events=2_500,
        shapes=_SINGLE,
    ),
)
BY_NAME = {contender.name: contender for contender in CONTENDERS}
