"""The event that handlers and tasks get, and its wire format (DESIGN.md section 4).

An event is made twice: by the producer from the cells of a row (``row_event.py``), and by a worker from the
JSON text in a task's message (:class:`WireEvent`). Both are an :class:`Event`, with the same values.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
from kombu.utils.json import register_type

from walex_celery.errors import DecodeError
from walex_celery.events.record import UNCHANGED, Cell, Record, Shape, shared_shape
from walex_celery.events.values import TypeDefinition
from walex_celery.postgres.lsn import Lsn

EventType = Literal["insert", "update", "delete", "truncate", "message"]

#: ``None`` is possible, but an insert's or update's new row, and a delete's old one, are always there: code that is
#: about one type of event need not check (the convention of typeshed).
MaybeNone: TypeAlias = Any

#: The ``__type__`` of an event among the arguments of a task.
WIRE_TYPE: Final = "walex.event"

try:
    VERSION: Final = version("walex-celery")
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION: Final = "0"  # type: ignore[misc]


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an event comes from.

    Attributes:
        name: ``"WalEx"``, as WalEx says.
        version: of walex-celery.
        db: the database's name.
        schema: of the table; empty for a message.
        table: the table's name; empty for a message.
        columns: type name by column name, in column order.
        key: names of the columns that identify a row (replica identity, or the primary key with FULL).
        types: what the types that are not built in are made of, by type name.
    """

    name: str
    version: str
    db: str
    schema: str
    table: str
    columns: dict[str, str]
    key: tuple[str, ...] = ()
    types: dict[str, TypeDefinition] = {}

    @property
    def full_name(self) -> str:
        """The table's name, with its schema unless that is ``public``; empty for a message."""
        return self.table if self.schema in ("", "public") else f"{self.schema}.{self.table}"


class Change(NamedTuple):
    """A column's values around an update."""

    new_value: Any
    old_value: Any


class TransactionInfo(msgspec.Struct, frozen=True):
    """The transaction of an event, and which part of it the event came in.

    A large transaction reaches batch handlers in chunks (promise 4): ``chunk`` counts from 0, and ``last``
    is true for the events of the chunk that ends the transaction.
    """

    xid: int | None
    lsn: Lsn
    timestamp: datetime
    chunk: int = 0
    last: bool = True


class Event(ABC):
    """A committed change of a row, a TRUNCATE of a table, or a message of ``pg_logical_emit_message``."""

    __slots__ = ("__dict__",)

    type: EventType
    source: Source
    transaction: TransactionInfo
    index: int

    @property
    def name(self) -> str:
        """The table's name without its schema, or a message's prefix."""
        return self.source.table

    @property
    def timestamp(self) -> datetime:
        """When the transaction committed (aware, UTC)."""
        return self.transaction.timestamp

    @property
    def lsn(self) -> Lsn:
        """The commit LSN of the transaction; a non-transactional message's own LSN."""
        return self.transaction.lsn

    @property
    def xid(self) -> int | None:
        """The transaction's id; ``None`` for a non-transactional message."""
        return self.transaction.xid

    @property
    @abstractmethod
    def new_record(self) -> Record | MaybeNone:
        """The row after an insert or update, ``None`` for other events."""

    @property
    @abstractmethod
    def old_record(self) -> Record | MaybeNone:
        """The deleted row: whole with REPLICA IDENTITY FULL, its key otherwise. ``None`` for updates: see changes."""

    @property
    @abstractmethod
    def changes(self) -> Mapping[str, Change] | None:
        """What an update changed, by column name. ``None`` when the old values are unknown.

        Postgres tells them with ``REPLICA IDENTITY FULL``.
        """

    @property
    @abstractmethod
    def old_key(self) -> Mapping[str, Any] | None:
        """The row's key before an update that changed it, else ``None``."""

    @property
    def key(self) -> Mapping[str, Any] | None:
        """The values of ``source.key`` in the row as it is now (as it was, for a delete); ``None`` without a key."""
        record = self.new_record if self.new_record is not None else self.old_record
        if record is None or not self.source.key:
            return None
        return {name: record[name] for name in self.source.key if name in record}

    @property
    def content(self) -> bytes | None:
        """A message's content."""
        return None

    @property
    def transactional(self) -> bool | None:
        """Whether a message is part of its transaction; ``None`` for other events."""
        return None if self.type != "message" else self.xid is not None

    @property
    def cascade(self) -> bool:
        """Whether a TRUNCATE said CASCADE."""
        return False

    @property
    def restart_identity(self) -> bool:
        """Whether a TRUNCATE said RESTART IDENTITY."""
        return False

    @abstractmethod
    def to_json(self) -> bytes:
        """The event as the UTF-8 JSON text that goes to a worker."""

    def for_task(self) -> tuple[bytes, bytes, str]:
        """What a task's message is made of: :meth:`to_json`, a start of it that many events share, and the ``repr``."""
        return self.to_json(), b"", repr(self)

    @staticmethod
    def from_json(text: str | bytes) -> Event:
        """The event that :meth:`to_json` made *text* of; decoded when first looked at."""
        return WireEvent(text)

    def __repr__(self) -> str:
        record = self.new_record if self.new_record is not None else self.old_record
        texts = record.texts(self.source.key) if record is not None else {}
        told = "".join(f" {printable(name)}={short(text)}" for name, text in texts.items())
        return f"<Event {self.type} {printable(self.source.full_name or self.name)}{told} lsn={self.lsn}>"

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if isinstance(other, Event) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.lsn, self.index))


def short(text: str | None, limit: int = 40) -> str:
    """*text* as it stands in an event's ``repr``, which logs and Flower show: short, in one line."""
    if text is None:
        return "NULL"
    return printable(text if len(text) <= limit else text[: limit - 1] + "…")


def printable(text: str) -> str:
    """*text* with what would move a terminal's cursor, begin a line, or not encode, escaped as Python does."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else ascii(char)[1:-1] for char in text])


def changes_of(
    shape: Shape, new: Sequence[Cell], old: Sequence[Cell], numbers: Iterable[int]
) -> dict[str, Change]:
    """The values around an update of the columns *numbers*, which changed."""

    def value(number: int, cell: Cell) -> Any:
        return shape.cast(number, cell) if isinstance(cell, bytes) else None

    return {
        shape.names[number]: Change(value(number, new[number]), value(number, old[number]))
        for number in numbers
    }


class _Part(msgspec.Struct):
    chunk: int = 0
    last: bool = True


class _Wire(msgspec.Struct):
    name: str
    type: EventType
    source: Source
    timestamp: datetime
    lsn: str
    index: int
    xid: int | None = None
    transaction: _Part = msgspec.field(default_factory=_Part)
    new_record: dict[str, msgspec.Raw] | None = None
    old_record: dict[str, msgspec.Raw] | None = None
    changes: dict[str, msgspec.Raw] | None = None
    old_key: dict[str, msgspec.Raw] | None = None
    as_text: tuple[str, ...] = ()
    #: Empty where there is none: msgspec takes "Raw or None" for None.
    content: msgspec.Raw = msgspec.Raw()
    cascade: bool = False
    restart_identity: bool = False


_decode_wire = msgspec.json.Decoder(_Wire).decode
_ROWS: Final = frozenset({"new_record", "old_record", "changes", "old_key"})
# Integers as text: only the end of a value is looked for, and Python refuses those of over 4,300 digits.
_skip_value = json.JSONDecoder(parse_int=str).raw_decode


def _members(text: str) -> dict[str, str]:
    """The members of the JSON object *text*, each value as it is written; ValueError for anything else."""
    members: dict[str, str] = {}
    at = _expect(text, 0, "{")
    if text[at] == "}":
        return members
    while True:
        name, at = _skip_value(text, at)
        at = _expect(text, at, ":")
        start = at
        _, at = _skip_value(text, at)
        members[name] = text[start:at]
        at = _space(text, at)
        if text[at] == "}":
            return members
        at = _expect(text, at, ",")


def _space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _expect(text: str, at: int, token: str) -> int:
    at = _space(text, at)
    if text[at] != token:
        raise ValueError(f"{token!r} expected at character {at}")
    return _space(text, at + 1)


class WireEvent(Event):
    """An event in a worker: JSON text, decoded when first looked at.

    Lazily, because kombu makes it while it reads a message: an error there would make Celery discard the
    message, while an error here fails the task, with its traceback in Flower.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str | bytes) -> None:
        self._text = text

    @cached_property
    def _wire(self) -> _Wire:
        try:
            return _decode_wire(self._text)
        except (msgspec.DecodeError, UnicodeError) as error:
            if isinstance(error, msgspec.DecodeError) and b"\\ud" in self.to_json().lower():
                return self._wire_with_surrogates(error)
            raise DecodeError(f"an event's JSON can't be read: {error}") from error

    def _wire_with_surrogates(self, error: Exception) -> _Wire:
        """The JSON with lone surrogates in it, which msgspec refuses.

        They stand for bytes that are not UTF-8 (SQL_ASCII), or are in a document of type json, which Postgres
        does not check. Values are cut out, not parsed: a number must keep its digits.
        """
        try:
            members = _members(self.to_json().decode())
            document: dict[str, Any] = {}
            for member, text in members.items():
                if member in _ROWS and text != "null":
                    document[member] = {
                        name: msgspec.Raw(value.encode()) for name, value in _members(text).items()
                    }
                else:
                    document[member] = msgspec.Raw(text.encode()) if member == "content" else json.loads(text)
            return msgspec.convert(document, _Wire)
        except (ValueError, TypeError, AttributeError, IndexError, RecursionError):
            raise DecodeError(f"an event's JSON can't be read: {error}") from error

    @property
    def type(self) -> EventType:  # type: ignore[override]
        """insert, update, delete, truncate or message."""
        return self._wire.type

    @property
    def source(self) -> Source:  # type: ignore[override]
        """Where the event comes from."""
        return self._wire.source

    @property
    def name(self) -> str:
        """The table's name, or a message's prefix."""
        return self._wire.name

    @property
    def index(self) -> int:  # type: ignore[override]
        """The event's place in its transaction, from 0."""
        return self._wire.index

    @cached_property
    def transaction(self) -> TransactionInfo:  # type: ignore[override]
        """The transaction of the event."""
        wire = self._wire
        return TransactionInfo(
            wire.xid, Lsn.parse(wire.lsn), wire.timestamp, wire.transaction.chunk, wire.transaction.last
        )

    @cached_property
    def _shape(self) -> Shape:
        source = self._wire.source
        return shared_shape(tuple(source.columns.items()), tuple(source.types.items()))

    def _cells(self, members: dict[str, msgspec.Raw]) -> list[Cell]:
        return self._shape.from_json(members, self._wire.as_text)

    def _record(self, members: dict[str, msgspec.Raw] | None) -> Record | None:
        return None if members is None else Record(self._shape, self._cells(members))

    @cached_property
    def new_record(self) -> Record | MaybeNone:
        """The row after an insert or update."""
        return self._record(self._wire.new_record)

    @cached_property
    def old_record(self) -> Record | MaybeNone:
        """The deleted row."""
        return self._record(self._wire.old_record)

    @cached_property
    def old_key(self) -> Record | None:
        """The row's key before an update that changed it."""
        return self._record(self._wire.old_key)

    @cached_property
    def changes(self) -> Mapping[str, Change] | None:
        """What an update changed."""
        wire = self._wire
        if wire.changes is None or wire.new_record is None:
            return None
        old = self._cells(wire.changes)
        numbers = [number for number, cell in enumerate(old) if cell is not UNCHANGED]
        return changes_of(self._shape, self._cells(wire.new_record), old, numbers)

    @property
    def content(self) -> bytes | None:
        """A message's content."""
        content = bytes(self._wire.content)
        return str(json.loads(content)).encode("utf-8", "surrogateescape") if content else None

    @property
    def cascade(self) -> bool:
        """Whether a TRUNCATE said CASCADE."""
        return self._wire.cascade

    @property
    def restart_identity(self) -> bool:
        """Whether a TRUNCATE said RESTART IDENTITY."""
        return self._wire.restart_identity

    def to_json(self) -> bytes:
        """The event as JSON text."""
        return self._text.encode() if isinstance(self._text, str) else self._text

    def __reduce__(self) -> tuple[Any, ...]:
        return WireEvent, (self._text,)


# kombu asks isinstance(argument, Event), so the abstract base is what it needs.
register_type(Event, WIRE_TYPE, lambda event: event.to_json().decode(), Event.from_json)  # type: ignore[type-abstract]
