"""pgoutput messages to the events of a transaction, in order, in bounded chunks.

Postgres sends only committed transactions (protocol 1), one after the other, so an event may be handed on
before its transaction's end has been read: memory stays bounded whatever the transaction's size (promise 4).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from struct import error as StructError
from typing import Final, NamedTuple

from walex_celery._speedups import speedups
from walex_celery.errors import DecodeError
from walex_celery.events.cells import UNCHANGED, Cell
from walex_celery.events.event import Event, EventType, TransactionInfo
from walex_celery.events.row_event import (
    Context,
    PlainContext,
    PlainEvent,
    PlainRowEvent,
    new_context,
    new_row_event,
)
from walex_celery.handlers.routes import Route
from walex_celery.pipeline.table_plan import DatedPlan, Planning, TablePlan
from walex_celery.postgres import pgoutput
from walex_celery.postgres.lsn import Lsn

#: A chunk is handed on when the events waiting are this many, or hold this many bytes of rows.
CHUNK_EVENTS: Final = 1000
CHUNK_BYTES: Final = 4 * 1024 * 1024

#: The prefix of a message that names the trace a transaction belongs to, and its form.
TRACEPARENT: Final = "traceparent"
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

#: The index of a message outside of transactions. Its LSN is its record's end, which is where the commit record of
#: a transaction may begin: with the index 0 its task's id could be that of the transaction's first event.
STANDALONE_INDEX: Final = 2**32 - 1


class RoutedEvent(NamedTuple):
    """An event and the handlers that want it."""

    event: Event
    route: Route


_new_tuple = tuple.__new__


class Chunk(NamedTuple):
    """Events that go out together: a transaction's, or a part of them.

    ``traceparent`` is what the application wrote in the transaction, before these events were handed on, as a message
    of that prefix: the first that looks like one (https://www.w3.org/TR/trace-context/).
    """

    context: Context
    routed: list[RoutedEvent]
    traceparent: bytes | None = None

    @property
    def info(self) -> TransactionInfo:
        """The transaction, and which part of it this is."""
        return self.context.info


class Assembler:
    """The open transaction of a replication stream; :meth:`feed` it with payloads, in order.

    :data:`new_assembler` makes one: compiled, where it can be.

    Args:
        planning: decides what is done with each message.
        restartable: take a Begin inside a transaction for a stream that broke there, and sends that one again.
    """

    _new_context: Callable[[], Context] = PlainContext

    def __init__(self, planning: Planning, *, restartable: bool = False) -> None:
        #: Everything up to here has been fed and handed on: the end of the last whole transaction. An Lsn, but for
        #: the type, which would cost each transaction 0.2 us.
        self.end_lsn: int = Lsn(0)
        self._before_lsn: int = 0
        self._planning = planning
        self._restartable = restartable
        self._relations: dict[int, pgoutput.Relation] = {}
        self._plans: dict[int, TablePlan | None] = {}
        # Their plans for the open transaction are among the others, and go with it.
        self._dated: dict[int, DatedPlan] = {}
        self._of_transaction: list[int] = []
        self._begin: bytes | None = None
        self._traceparent: bytes | None = None
        self._index = 0
        self._chunk = 0
        self._bytes = 0
        self._chunk_events = CHUNK_EVENTS
        self._chunk_bytes = CHUNK_BYTES
        self._context = self._new_context()
        self._routed: list[RoutedEvent] = []

    @property
    def in_transaction(self) -> bool:
        """Whether a Begin has been fed whose Commit has not."""
        return self._begin is not None

    def plan_by(self, planning: Planning) -> None:
        """Go on with the plans of another connection; :meth:`replan` before the next message."""
        self._planning = planning

    def replan(self) -> None:
        """Ask again for the plan of every known relation: handlers or subscriptions have changed."""
        for relation in self._relations.values():
            self._replan(relation)

    def take_back(self) -> None:
        """What was handed on last has not been done: it is no reason to acknowledge anything."""
        self.end_lsn = self._before_lsn

    def feed(self, payload: bytes) -> Chunk | None:
        """Take the next message; returns the chunk that it completes, if it does.

        Raises:
            DecodeError: for bytes that are not a pgoutput message, or for one that can't stand here.
        """
        try:
            reader = _READERS[payload[0]]
        except (IndexError, KeyError):
            pgoutput.decode(payload)
            raise
        try:
            return reader(self, payload)
        except (IndexError, StructError) as error:
            raise DecodeError(f"{chr(payload[0])!r} message cut short after {len(payload)} bytes") from error

    def _on_begin(self, payload: bytes) -> None:
        if self._begin is not None:
            if not self._restartable:
                raise DecodeError("Begin inside a transaction")
            self._routed, self._bytes, self._chunk, self._context = [], 0, 0, self._new_context()
        if len(payload) != pgoutput.BEGIN_LENGTH:
            pgoutput.check_end(payload, pgoutput.BEGIN_LENGTH, "Begin")
        if self._of_transaction:
            for oid in self._of_transaction:
                if oid in self._dated:
                    self._plans.pop(oid, None)
            self._of_transaction.clear()
        # Decoded only when an event needs it: most transactions of a filtered stream have none.
        self._begin = payload
        self._traceparent = None
        self._index = 0

    def _on_commit(self, payload: bytes) -> Chunk | None:
        if self._begin is None:
            raise DecodeError("Commit outside a transaction")
        if len(payload) != pgoutput.COMMIT_LENGTH:
            pgoutput.check_end(payload, pgoutput.COMMIT_LENGTH, "Commit")
        chunk = self._complete(last=True) if self._routed else None
        self._begin = None
        self._chunk = 0
        self._before_lsn = self.end_lsn
        (self.end_lsn,) = pgoutput.unpack_commit_end_lsn(payload)
        return chunk

    def _complete(self, *, last: bool) -> Chunk:
        assert self._begin is not None
        # Not pgoutput.decode(): this is done for each transaction, and the length was checked when it came.
        final_lsn, microseconds, xid = pgoutput.unpack_begin(self._begin)
        pgoutput.check_timestamp(microseconds)
        context = self._context
        context.complete(final_lsn, microseconds, xid, self._chunk, last)
        chunk = _new_tuple(Chunk, (context, self._routed, self._traceparent))
        if not last:
            self._before_lsn = self.end_lsn
        self._routed = []
        self._bytes = 0
        self._context = self._new_context()
        self._chunk += 1
        return chunk

    def _next_index(self) -> int:
        if self._begin is None:
            raise DecodeError("a change outside a transaction")
        index = self._index
        self._index = index + 1
        return index

    def _next_plan(self, payload: bytes) -> TablePlan | None:
        """Count the change that *payload* is, and return its table's plan."""
        if self._begin is None:
            raise DecodeError("a change outside a transaction")
        self._index += 1
        (oid,) = pgoutput.unpack_oid(payload)
        try:
            return self._plans[oid]
        except KeyError:
            return self._dated_plan_of(oid, "row")

    def _dated_plan_of(self, oid: int, change: str) -> TablePlan | None:
        """The plan of a relation for the open transaction."""
        if oid not in self._dated:
            raise DecodeError(f"a {change} of relation {oid}, which no Relation message has described")
        assert self._begin is not None
        begin = pgoutput.decode(self._begin)
        assert isinstance(begin, pgoutput.Begin)
        dated = self._dated[oid]
        if begin.final_lsn > dated.read_at:
            until = dated.unaltered()
            if until is not None:
                # What has been read had been committed, and so been seen, when it looked.
                dated = self._dated[oid] = dated._replace(read_at=max(until, begin.final_lsn))
            else:
                self._replan(self._relations[oid])
                if oid in self._plans:
                    return self._plans[oid]
                dated = self._dated[oid]
        plan = dated.otherwise if dated.altered_after(begin.xid) else dated.plan
        self._plans[oid] = plan
        self._of_transaction.append(oid)
        return plan

    def _insert(self, payload: bytes) -> Chunk | None:
        plan = self._next_plan(payload)
        if plan is None or (route := plan.insert) is None:
            return None
        new = pgoutput.read_insert(payload)
        return self._row(plan, "insert", route, new, None, True, len(payload))

    def _update(self, payload: bytes) -> Chunk | None:
        plan = self._next_plan(payload)
        if plan is None or (route := plan.update) is None:
            return None
        kind, old, new = pgoutput.read_update(payload)
        whole = kind == plan.whole_kind
        if old is not None:
            if len(old) != len(new):
                raise DecodeError(f"Update: an old row of {len(old)} columns, and a new one of {len(new)}")
            if not whole:
                old, whole = plan.known(kind, old)
            if UNCHANGED in new:
                # The old row has the TOASTed value that the new one leaves out: any with REPLICA IDENTITY FULL,
                # those of the key without (Postgres sends a TOASTed key with each update).
                pairs = zip(old, new, strict=True)
                new = [before if after is UNCHANGED else after for before, after in pairs]
        return self._row(plan, "update", route, new, old, whole, len(payload))

    def _delete(self, payload: bytes) -> Chunk | None:
        plan = self._next_plan(payload)
        if plan is None or (route := plan.delete) is None:
            return None
        kind, old = pgoutput.read_delete(payload)
        whole = kind == plan.whole_kind
        if not whole:
            old, whole = plan.known(kind, old)
        return self._row(plan, "delete", route, None, old, whole, len(payload))

    def _row(
        self,
        plan: TablePlan,
        type: EventType,
        route: Route,
        new: list[Cell] | None,
        old: list[Cell] | None,
        old_is_whole: bool,
        size: int,
    ) -> Chunk | None:
        width = plan.width
        if (new is not None and len(new) != width) or (old is not None and len(old) != width):
            raise DecodeError(
                f"a row of {plan.source.schema}.{plan.source.table} does not have the {width} columns "
                "that its Relation message announced"
            )
        wanting: Route | None = route
        if not route.takes_all:
            wanting = route.of(new if new is not None else old, old if old_is_whole else None)
            if wanting is None:
                route.tally.filtered += 1
                return None
        chunk = self._make_room(size) if self._routed else None
        self._bytes += size
        event = PlainRowEvent(plan, type, self._context, self._index - 1, new, old, old_is_whole)
        # tuple.__new__, because a NamedTuple's own costs 0.3 us more.
        self._routed.append(_new_tuple(RoutedEvent, (event, wanting)))
        return chunk

    def _make_room(self, size: int) -> Chunk | None:
        """Hand on what waits, if the next event, of *size* bytes, would make it too much.

        Before the event is added, not after: so a chunk is never the last without saying so.
        """
        if len(self._routed) >= self._chunk_events or (
            self._routed and self._bytes + size > self._chunk_bytes
        ):
            return self._complete(last=False)
        return None

    def _relation(self, payload: bytes) -> None:
        relation = pgoutput.decode(payload)
        assert isinstance(relation, pgoutput.Relation)
        self._relations[relation.oid] = relation
        self._replan(relation)

    def _replan(self, relation: pgoutput.Relation) -> None:
        plan = self._planning.plan(relation)
        if isinstance(plan, DatedPlan):
            self._dated[relation.oid] = plan
            self._plans.pop(relation.oid, None)
        else:
            self._plans[relation.oid] = plan
            self._dated.pop(relation.oid, None)

    def _truncate(self, payload: bytes) -> Chunk | None:
        truncate = pgoutput.decode(payload)
        assert isinstance(truncate, pgoutput.Truncate)
        chunk = None
        for oid in truncate.relation_oids:
            index = self._next_index()
            plan = self._plans[oid] if oid in self._plans else self._dated_plan_of(oid, "TRUNCATE")
            if plan is not None and plan.truncate is not None:
                # At most one chunk is handed on: one TRUNCATE does not name so many tables.
                chunk = chunk or self._make_room(len(payload))
                self._bytes += len(payload)
                event = PlainEvent(
                    "truncate",
                    plan.source,
                    self._context,
                    index,
                    cascade=truncate.cascade,
                    restart_identity=truncate.restart_identity,
                )
                self._routed.append(RoutedEvent(event, plan.truncate))
        return chunk

    def _message(self, payload: bytes) -> Chunk | None:
        message = pgoutput.decode(payload)
        assert isinstance(message, pgoutput.LogicalMessage)
        wanted = self._planning.message_plan(message.prefix)
        if message.transactional:
            index = self._next_index()
            if message.prefix == TRACEPARENT and self._traceparent is None:
                found = _TRACEPARENT.fullmatch(message.content)
                self._traceparent = found and found[0]
            if not wanted:
                return None
            chunk = self._make_room(len(payload))
            self._bytes += len(payload)
            self._routed.append(RoutedEvent(self._message_event(message, self._context, index), wanted))
            return chunk
        if self._begin is not None:
            raise DecodeError("a non-transactional message inside a transaction")
        self._before_lsn = self.end_lsn
        self.end_lsn = max(self.end_lsn, message.lsn)
        if not wanted:
            return None
        # It is no part of a transaction, so no commit gives its time; this is when it was read.
        now = (datetime.now(UTC) - pgoutput.POSTGRES_EPOCH) // timedelta(microseconds=1)
        context = self._new_context()
        context.complete(message.lsn, now, None)
        return Chunk(context, [RoutedEvent(self._message_event(message, context, STANDALONE_INDEX), wanted)])

    def _message_event(self, message: pgoutput.LogicalMessage, context: Context, index: int) -> PlainEvent:
        return PlainEvent(
            "message",
            self._planning.message_source,
            context,
            index,
            prefix=message.prefix,
            content=message.content,
        )

    def _type(self, payload: bytes) -> None:
        message = pgoutput.decode(payload)
        assert isinstance(message, pgoutput.Type)
        self._planning.announce(message)

    def _origin(self, payload: bytes) -> None:
        # Handlers do not get it; decoded so that garbage in its place is noticed.
        pgoutput.decode(payload)


#: By first byte, so that a message costs one lookup and one call.
_READERS: Final[dict[int, Callable[[Assembler, bytes], Chunk | None]]] = {
    pgoutput.INSERT: Assembler._insert,
    pgoutput.UPDATE: Assembler._update,
    pgoutput.DELETE: Assembler._delete,
    pgoutput.BEGIN: Assembler._on_begin,
    pgoutput.COMMIT: Assembler._on_commit,
    pgoutput.RELATION: Assembler._relation,
    pgoutput.TRUNCATE: Assembler._truncate,
    pgoutput.MESSAGE: Assembler._message,
    pgoutput.TYPE: Assembler._type,
    pgoutput.ORIGIN: Assembler._origin,
}

new_assembler = speedups.assembler(
    Assembler, context=new_context, row_event=new_row_event, routed_event=RoutedEvent, chunk=Chunk
)
