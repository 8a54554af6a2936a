"""Events in a worker: the wire format of the JSON text in a task's message, decoded when first looked at.

The format is described in docs/architecture.md. Any worker that imports walex_celery gets an
:class:`~walex_celery.Event` from the stock JSON serializer: :func:`register` makes it so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import msgspec
from kombu.utils.json import register_type

from walex_celery.errors import DecodeError
from walex_celery.events.cells import UNCHANGED, Cell
from walex_celery.events.event import (
    Change,
    Event,
    EventType,
    MaybeNone,
    Source,
    TransactionInfo,
    changes_of,
)
from walex_celery.events.record import Record
from walex_celery.events.shape import Shape, shared_shape
from walex_celery.postgres.lsn import Lsn

#: The ``__type__`` of an event among the arguments of a task.
WIRE_TYPE: Final = "walex.event"


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
        return shared_shape(tuple(source.columns.items()), tuple(source.types.items()), source.numbers)

    def _cells(self, members: dict[str, msgspec.Raw]) -> list[Cell]:
        return self._shape.from_json(members, self._wire.as_text)

    def _record(self, members: dict[str, msgspec.Raw] | None) -> Record | None:
        return None if members is None else Record(self._shape, self._cells(members), self.source)

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


def register() -> None:
    """Let kombu's JSON, which Celery's messages are in, have events."""
    # kombu asks isinstance(argument, Event), so the abstract base is what it needs.
    register_type(Event, WIRE_TYPE, lambda event: event.to_json().decode(), WireEvent)  # type: ignore[type-abstract]
