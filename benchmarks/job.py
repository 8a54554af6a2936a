"""A contender's input and output, as JSON on its standard input and output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from benchmarks.contenders import Broker, Work


class Job(msgspec.Struct, frozen=True):
    """One drain.

    Attributes:
        work: what to do with each event.
        broker: the kind of broker, and of its queue.
        broker_url: where it is.
        postgres_url: the database, with the password: that is why the job comes on standard input.
        slot: the slot to drain, used by nothing else.
        end: position that must be exceeded.
        events: how many there are to that end.
        table: whose changes they are.
        column: for the handler that reads one.
        unwatched: for the filter that drops all.
        native: with the compiled part, where there is one.
    """

    work: Work
    broker: Broker
    broker_url: str
    postgres_url: str
    slot: str
    end: int
    events: int
    table: str
    column: str
    unwatched: Mapping[str, Any]
    native: bool


class Outcome(msgspec.Struct, frozen=True):
    """The outcome of a drain.

    Attributes:
        events: how many were drained.
        seconds: from the start of streaming to the last confirmation.
        cpu_seconds: user and system time of the contender's process in between.
        peak_bytes: the most memory that the process ever held.
        ways: how tasks were published, as the log says.
    """

    events: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    ways: tuple[str, ...] = ()
