"""A dead letter: events whose handler failed, and how."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Literal

import msgspec

from walex_celery.events.event import Event
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.timeline import FIRST_TIMELINE


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One failure: the events that a batch handler was called with, or the event of one task.

    Attributes:
        id: 16 hexadecimal digits, derived from what failed: a redelivery that fails again has the same id.
        kind: ``batch`` for a batch handler's events, ``task`` for one event that could not be enqueued.
        instance: name of the WalEx.
        system_identifier: of the Postgres cluster.
        handler: the batch handler's name, or the task's.
        registration: what the batch handler was registered for; empty for a task.
        task_id: the id of the task, the same for each try; empty for a batch handler.
        lsn: commit LSN of the transaction.
        xid: the transaction's id; ``None`` for a message outside of transactions.
        index: place of the first event in its transaction.
        tables: of the events, with the schema unless it is public; for messages, the prefixes.
        event_count: how many events.
        events: each as JSON text (:meth:`~walex_celery.Event.to_json`); empty in a summary.
        error_type: the exception's class.
        error: its text, with secrets removed; may hold row data.
        traceback: likewise.
        committed_at: when the transaction committed.
        failed_at: when it was first stored.
        tried_at: when it was last tried.
        tries: how often it was tried.
    """

    id: str
    kind: Literal["batch", "task"]
    instance: str
    system_identifier: int
    handler: str
    registration: str
    task_id: str
    lsn: Lsn
    xid: int | None
    index: int
    tables: tuple[str, ...]
    event_count: int
    events: tuple[str, ...] = ()
    error_type: str
    error: str
    traceback: str
    committed_at: datetime
    failed_at: datetime
    tried_at: datetime
    tries: int

    def summary(self) -> dict[str, Any]:
        """What a list may show: without row data, so without events and the error's text, which may hold some."""
        shown = msgspec.structs.asdict(self) | {"lsn": str(self.lsn)}
        for hidden in ("events", "error", "traceback", "system_identifier"):
            del shown[hidden]
        return shown

    def failed_again(self, error_type: str, error: str, traceback: str) -> Letter:
        """The letter after one more try."""
        return msgspec.structs.replace(
            self,
            error_type=error_type,
            error=error,
            traceback=traceback,
            tried_at=datetime.now(UTC),
            tries=self.tries + 1,
        )


def letter_of(
    events: Sequence[Event],
    *,
    instance: str,
    system_identifier: int,
    timeline: int = FIRST_TIMELINE,
    handler: str,
    registration: str = "",
    task_id: str = "",
    error_type: str,
    error: str,
    traceback: str,
    tries: int,
) -> Letter:
    """Make a letter of a batch handler's *events* or, with *task_id*, of the one event of a task."""
    first = events[0]
    now = datetime.now(UTC)
    names = (event.source.full_name or event.name for event in events)
    return Letter(
        id=letter_id(system_identifier, timeline, instance, first.lsn, first.index, handler, registration),
        kind="task" if task_id else "batch",
        instance=instance,
        system_identifier=system_identifier,
        handler=handler,
        registration=registration,
        task_id=task_id,
        lsn=first.lsn,
        xid=first.xid,
        index=first.index,
        tables=tuple(dict.fromkeys(names)),
        event_count=len(events),
        events=tuple([event.to_json().decode() for event in events]),
        error_type=error_type,
        error=error,
        traceback=traceback,
        committed_at=first.timestamp,
        failed_at=now,
        tried_at=now,
        tries=tries,
    )


def letter_id(
    system_identifier: int,
    timeline: int,
    instance: str,
    lsn: int,
    index: int,
    handler: str,
    registration: str,
) -> str:
    """The same for every delivery of the same events to the same handler, like a task's id (promise 3)."""
    identity = "\0".join(
        map(str, (system_identifier, timeline, instance, int(lsn), index, handler, registration))
    )
    return blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
