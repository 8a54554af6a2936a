"""A producer's report about itself: its answer to ``walex status``, and the format of ``--json``.

It goes through the broker, so it holds no secrets and no row data. Positions are text (``0/16B3748``), durations are
in seconds, sizes in bytes, times in UTC.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Final

import msgspec

from walex_celery.telemetry.statistics import Durations, HandlerTally, Statistics

#: The prefix of producers' node names in remote control, where workers are ``celery@...``.
NODE_PREFIX: Final = "walex."


@cache
def own_version() -> str:
    """Of walex-celery."""
    return version("walex-celery")


def node_name(instance: str, *, standby: bool = False) -> str:
    """The name of a producer in the remote-control mailbox and in Flower.

    Node names must be unique. Without ``--standby`` a host runs at most one producer of an instance; with it, several.

    >>> node_name("shop").startswith("walex.shop@")
    True
    """
    process = f".{os.getpid()}" if standby else ""
    return f"{NODE_PREFIX}{instance}{process}@{socket.gethostname()}"


class DurationStatus(msgspec.Struct, frozen=True):
    """How long something took; ``None`` before the first. ``p50`` and ``p95`` are estimated."""

    count: int
    mean: float | None
    p50: float | None
    p95: float | None
    last: float | None


class HandlerStatus(msgspec.Struct, frozen=True):
    """What one batch handler did.

    Attributes:
        name: its module and name.
        calls: how often it returned.
        events: how many events it got in those.
        errors: how often it raised.
        seconds: of its calls.
        last_error: the type of what it raised last.
        last_error_at: when.
    """

    name: str
    calls: int
    events: int
    errors: int
    seconds: DurationStatus
    last_error: str | None
    last_error_at: datetime | None


class TableStatus(msgspec.Struct, frozen=True):
    """Events of one table and type; for messages the table is empty."""

    table: str
    type: str
    accepted: int
    filtered: int


class SpoolStatus(msgspec.Struct, frozen=True):
    """The spool on the producer's disk: its size, the bytes still to process, and its capacity."""

    size_bytes: int
    waiting_bytes: int
    max_bytes: int


class LagStatus(msgspec.Struct, frozen=True):
    """WAL that Postgres has written and that is not acknowledged yet.

    Attributes:
        bytes: how much; ``None`` while Postgres can't be reached.
        seconds: the age of the oldest part.
        backlog_bytes: the size of the backlog being worked off, at its start; 0 without one.
        seconds_left: until it is worked off at the current rate; ``None`` if it does not shrink.
        measured_at: when.
    """

    bytes: int | None = None
    seconds: float = 0.0
    backlog_bytes: int = 0
    seconds_left: float | None = None
    measured_at: datetime | None = None


class ProducerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A producer at one moment.

    Attributes:
        name: the instance.
        node: its name in the remote-control mailbox and in Flower.
        hostname, pid: where it runs.
        version: of walex-celery.
        state: ``paused``, ``stopping``, or what it is doing, in the words of ``activity.py``'s ``Doing``.
        state_detail: such as a handler's name.
        state_seconds: since that began, or last showed to be alive.
        started: when.
        slot, durable_slot: the slot's name, and whether it is kept while no producer runs.
        server: ``user@host:port/database``.
        publication, subscriptions: the settings.
        read_lsn: the end of the last transaction that was read.
        confirmed_lsn: everything up to here is done.
        acknowledged_lsn: the last position acknowledged to Postgres.
        lag: what is left to do.
        events_per_second, tasks_per_second, transactions_per_second: over the last seconds.
        messages, transactions, events, tasks: since it was started.
        unconfirmed_tasks, unconfirmed_bytes: built, but not yet confirmed by the broker.
        batches_in_flight: how many batches were sent and are not confirmed.
        publish: from writing a batch to its confirmation.
        handlers: each batch handler.
        tables: each table and type.
        spool: the spool, if there is one.
        dead_letters: dead letters stored since it was started.
        reconnects: how often it had to connect to Postgres again.
        broker: the broker's address, without the password.
    """

    name: str
    node: str
    hostname: str
    pid: int
    version: str
    state: str
    state_detail: str
    state_seconds: float
    started: datetime
    slot: str
    durable_slot: bool
    server: str
    publication: tuple[str, ...]
    subscriptions: tuple[str, ...]
    read_lsn: str
    confirmed_lsn: str
    acknowledged_lsn: str
    lag: LagStatus
    events_per_second: float
    tasks_per_second: float
    transactions_per_second: float
    messages: int
    transactions: int
    events: int
    tasks: int
    unconfirmed_tasks: int
    unconfirmed_bytes: int
    batches_in_flight: int
    publish: DurationStatus
    handlers: tuple[HandlerStatus, ...]
    tables: tuple[TableStatus, ...]
    spool: SpoolStatus | None
    dead_letters: int
    reconnects: int
    broker: str


def durations(found: Durations) -> DurationStatus:
    """A summary of *found*."""
    found = found.copy()  # the producer goes on counting
    count = found.count
    if not count:
        return DurationStatus(0, None, None, None, None)
    return DurationStatus(count, found.sum / count, found.quantile(0.5), found.quantile(0.95), found.last)


def handlers(statistics: Statistics, names: Iterable[str]) -> tuple[HandlerStatus, ...]:
    """The batch handlers *names*, including those not called yet, and any others that were called."""
    called = dict(statistics.handlers())
    return tuple(
        _handler(name, called.get(name) or HandlerTally()) for name in dict.fromkeys([*names, *called])
    )


def _handler(name: str, tally: HandlerTally) -> HandlerStatus:
    return HandlerStatus(
        name,
        tally.calls,
        tally.events,
        tally.errors,
        durations(tally.seconds),
        tally.last_error,
        tally.last_error_at,
    )


def tables(statistics: Statistics) -> tuple[TableStatus, ...]:
    """The counts by table and type, ordered by name."""
    return tuple(
        TableStatus(
            f"{key.schema}.{key.table}" if key.table else "", key.type, tally.accepted, tally.filtered
        )
        for key, tally in sorted(statistics.tallies(), key=lambda counted: counted[0])
        if tally.accepted or tally.filtered
    )
