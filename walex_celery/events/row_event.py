"""Events in the producer: made of the cells of the stream, cast and encoded when asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from walex_celery._speedups import speedups
from walex_celery.events.cells import MAX_NESTING, UNCHANGED, Awkward, Cell, json_string, text_of_cell
from walex_celery.events.event import (
    Change,
    Event,
    EventType,
    MaybeNone,
    Source,
    TransactionInfo,
    changes_of,
    printable,
    short,
)
from walex_celery.events.record import Record
from walex_celery.events.shape import Shape
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.pgoutput import EARLIEST, LATEST, timestamp

_encode = msgspec.json.Encoder().encode


class Context:
    """What the events of one chunk share, known when the chunk is complete.

    Attributes:
        position: the transaction's commit LSN.
        microseconds: of its commit, since 2000-01-01 UTC.
        last: whether the chunk ends its transaction.
        lsn: the commit LSN as text; empty until :meth:`render` made it.
        tail: what the events' own JSON ends with; empty likewise.
    """

    # Most transactions have one event: what not every event needs is made when asked for (tasks need no datetime,
    # batch handlers no JSON).
    if not TYPE_CHECKING:
        __slots__ = ()  # the fields are those of the subclasses: Python's, or compiled

    position: int
    microseconds: int
    last: bool
    lsn: str
    tail: bytes
    _xid: int | None
    _chunk: int
    _info: TransactionInfo | None

    def complete(
        self, position: int, microseconds: int, xid: int | None, chunk: int = 0, last: bool = True
    ) -> None:
        """Set what the chunk's transaction is."""
        self.position = position
        self.microseconds = microseconds
        self._xid = xid
        self._chunk = chunk
        self.last = last

    @property
    def is_complete(self) -> bool:
        """Whether the transaction is known."""
        return self._chunk >= 0

    @property
    def info(self) -> TransactionInfo:
        """The transaction; raises AttributeError before the chunk is complete."""
        if self._info is None:
            if not self.is_complete:
                raise AttributeError("the chunk of this event is not complete yet")
            moment = timestamp(self.microseconds)
            self._info = TransactionInfo(self._xid, Lsn(self.position), moment, self._chunk, self.last)
        return self._info

    def render(self) -> None:
        """Make ``lsn`` and ``tail``, once a chunk, if it is complete."""
        if not self.is_complete:
            return
        position = self.position
        self.lsn = "%X/%X" % (position >> 32, position & 0xFFFFFFFF)  # noqa: UP031 - half the time of an f-string
        self.tail = b',"timestamp":"%b","lsn":"%b","xid":%b,"transaction":{"chunk":%d,"last":%b}}' % (
            _timestamp_text(self.microseconds),
            self.lsn.encode(),
            b"null" if self._xid is None else b"%d" % self._xid,
            self._chunk,
            b"true" if self.last else b"false",
        )


class PlainContext(Context):
    """A context with Python's fields; :data:`new_context` makes those in use."""

    __slots__ = ("_chunk", "_info", "_xid", "last", "lsn", "microseconds", "position", "tail")

    def __init__(self) -> None:
        self._info = None
        self._chunk = -1
        self.lsn = ""
        self.tail = b""


new_context = speedups.context(Context, PlainContext, earliest=EARLIEST, latest=LATEST)


def _timestamp_text(microseconds: int) -> bytes:
    """A moment as msgspec prints it in JSON."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return b"%b.%06dZ" % (_second_text(seconds), fraction) if fraction else _second_text(seconds) + b"Z"


@lru_cache(maxsize=16)
def _second_text(seconds: int) -> bytes:
    return timestamp(seconds * 1_000_000).replace(tzinfo=None).isoformat().encode()


class RowSource:
    """What is the same for all events of a relation.

    ``form`` belongs to the compiled part, which makes it when it first needs it.
    """

    __slots__ = ("_heads", "form", "key_numbers", "shape", "source")

    def __init__(self, source: Source, shape: Shape) -> None:
        self.source = source
        self.shape = shape
        self.key_numbers = tuple((shape.index[name], printable(name)) for name in source.key)
        self._heads: dict[EventType, tuple[bytes, str]] = {}
        self.form: Any = None

    def head(self, type: EventType) -> tuple[bytes, str]:
        """The start of the JSON, and of the ``repr``, of the relation's events of *type*."""
        head = self._heads.get(type)
        if head is None:
            source = self.source
            head = event_head(type, source.table, source), f"<Event {type} {printable(source.full_name)}"
            self._heads[type] = head
        return head


class RowEvent(Event):
    """An insert, update or delete."""

    __slots__ = ()

    _row_source: RowSource
    _context: Context
    _new: Sequence[Cell] | None
    _old: Sequence[Cell] | None
    _old_is_whole: bool

    @property
    def source(self) -> Source:  # type: ignore[override]
        """Where the event comes from."""
        return self._row_source.source

    @property
    def shape(self) -> Shape:
        """The shape of the event's rows."""
        return self._row_source.shape

    def __repr__(self) -> str:
        source = self._row_source
        if not self._context.lsn:
            self._context.render()
        return self._repr(source, source.head(self.type)[1], self._context.lsn)

    def _repr(self, source: RowSource, head: str, lsn: str) -> str:
        # As Event's, from the cells: it is made for each task (0.7 us instead of 4).
        text = head
        cells = self._new if self._new is not None else self._old
        if cells is not None:
            for number, name in source.key_numbers:
                cell = cells[number]
                if cell is not UNCHANGED:
                    text += f" {name}={short(None if cell is None else text_of_cell(cell))}"
        return f"{text} lsn={lsn}>"

    @property
    def transaction(self) -> TransactionInfo:  # type: ignore[override]
        """The transaction of the event."""
        return self._context.info

    @cached_property
    def new_record(self) -> Record | MaybeNone:
        """The row after an insert or update."""
        return None if self._new is None else Record(self.shape, self._new, self.source)

    @cached_property
    def old_record(self) -> Record | MaybeNone:
        """The deleted row."""
        if self.type != "delete" or self._old is None:
            return None
        return Record(self.shape, self._old, self.source)

    @cached_property
    def changes(self) -> Mapping[str, Change] | None:
        """What an update changed."""
        if self._new is None or self._old is None or not self._old_is_whole:
            return None
        return changes_of(self.shape, self._new, self._old, self._changed_numbers())

    @cached_property
    def old_key(self) -> Mapping[str, Any] | None:
        """The row's key before an update that changed it."""
        cells = self._old_key_cells()
        return None if cells is None else Record(self.shape, cells, self.source)

    def _quick_or_not(self, cells: Sequence[Cell]) -> bytes:
        try:
            return self.shape.quick_json(cells)
        except Awkward:
            return self.shape.to_json(cells)

    def _changed_numbers(self) -> list[int]:
        """The columns that an update changed."""
        assert self._new is not None
        assert self._old is not None
        pairs = zip(self._new, self._old, strict=True)
        return [number for number, (new, old) in enumerate(pairs) if new != old and new is not UNCHANGED]

    def _old_key_cells(self) -> list[Cell] | None:
        if self._new is None or self._old is None:
            return None
        index = self.shape.index
        numbers = [index[name] for name in self.source.key if name in index]
        if all(self._old[number] in (self._new[number], UNCHANGED) for number in numbers):
            return None
        return [cell if number in numbers else UNCHANGED for number, cell in enumerate(self._old)]

    def to_json(self) -> bytes:
        """The event as JSON text."""
        source = self._row_source
        if not self._context.tail:
            self._context.render()
        return self._json(source.shape, source.head(self.type)[0], self._context)

    def _json(self, shape: Shape, head: bytes, context: Context) -> bytes:
        new, old = self._new, self._old
        try:
            if old is None:
                assert new is not None
                rows = b',"new_record":' + shape.quick_json(new)
            elif new is None:
                rows = b',"old_record":' + shape.quick_json(old)
            else:
                rows = self._rows()
        except Awkward:
            rows = self._rows()
        return b'%b%b,"index":%d%b' % (head, rows, self.index, context.tail)

    def for_task(self) -> tuple[bytes, bytes, str]:
        """The parts of a task's message; the shared start is the source."""
        source = self._row_source
        head, repr_head = source.head(self.type)
        context = self._context
        if not context.tail:
            context.render()
        return self._json(source.shape, head, context), head, self._repr(source, repr_head, context.lsn)

    def _rows(self) -> bytes:
        """The members that hold rows, whatever is in these."""
        shape = self.shape
        new, old = self._new, self._old
        awkward = [
            name for cells in (new, old) if cells is not None for name in shape.awkward_documents(cells)
        ]
        if new is None:
            assert old is not None
            parts = [b',"old_record":', shape.to_json(old, awkward)]
        else:
            parts = [b',"new_record":', shape.to_json(new, awkward) if awkward else self._quick_or_not(new)]
            if old is not None:
                if self._old_is_whole:
                    parts += (b',"changes":', shape.some_json(old, self._changed_numbers(), awkward))
                old_key = self._old_key_cells()
                if old_key is not None:
                    parts += (b',"old_key":', shape.to_json(old_key, awkward))
        if awkward:
            parts.append(b',"as_text":[' + b",".join(map(json_string, awkward)) + b"]")
        return b"".join(parts)


class PlainRowEvent(RowEvent):
    """A row's event with Python's fields; :data:`new_row_event` makes those in use."""

    __slots__ = ("_context", "_new", "_old", "_old_is_whole", "_row_source", "index", "type")

    def __init__(
        self,
        row_source: RowSource,
        type: EventType,
        context: Context,
        index: int,
        new: Sequence[Cell] | None,
        old: Sequence[Cell] | None,
        old_is_whole: bool,
    ) -> None:
        self.type = type
        self.index = index
        self._row_source = row_source
        self._context = context
        self._new = new
        self._old = old
        self._old_is_whole = old_is_whole


new_row_event = speedups.row_event(RowEvent, PlainRowEvent, unchanged=UNCHANGED, max_nesting=MAX_NESTING)


class PlainEvent(Event):
    """A TRUNCATE or a message."""

    __slots__ = (
        "_cascade",
        "_content",
        "_context",
        "_prefix",
        "_restart_identity",
        "index",
        "source",
        "type",
    )

    def __init__(
        self,
        type: EventType,
        source: Source,
        context: Context,
        index: int,
        *,
        prefix: str = "",
        content: bytes | None = None,
        cascade: bool = False,
        restart_identity: bool = False,
    ) -> None:
        self.type = type
        self.source = source
        self.index = index
        self._context = context
        self._prefix = prefix
        self._content = content
        self._cascade = cascade
        self._restart_identity = restart_identity

    new_record = old_record = changes = old_key = None

    @property
    def transaction(self) -> TransactionInfo:  # type: ignore[override]
        """The transaction of the event."""
        return self._context.info

    @property
    def name(self) -> str:
        """The table's name, or the message's prefix."""
        return self._prefix if self.type == "message" else self.source.table

    @property
    def content(self) -> bytes | None:
        """A message's content."""
        return self._content

    @property
    def cascade(self) -> bool:
        """Whether a TRUNCATE said CASCADE."""
        return self._cascade

    @property
    def restart_identity(self) -> bool:
        """Whether a TRUNCATE said RESTART IDENTITY."""
        return self._restart_identity

    def to_json(self) -> bytes:
        """The event as JSON text."""
        if not self._context.tail:
            self._context.render()
        parts = [event_head(self.type, self.name, self.source)]
        if self._content is not None:
            parts += (b',"content":', json_string(text_of_cell(self._content)))
        if self._cascade:
            parts.append(b',"cascade":true')
        if self._restart_identity:
            parts.append(b',"restart_identity":true')
        parts += (b',"index":%d' % self.index, self._context.tail)
        return b"".join(parts)


def event_head(type: EventType, name: str, source: Source) -> bytes:
    """The start of an event's JSON, the same for all events of a type and table."""
    return (
        b'{"name":' + json_string(name) + b',"type":"' + type.encode() + b'","source":' + _source_json(source)
    )


def _source_json(source: Source) -> bytes:
    try:
        return _encode(source)
    except UnicodeEncodeError:  # a name with bytes that are not UTF-8, in a SQL_ASCII database
        return json.dumps(msgspec.to_builtins(source)).encode()
