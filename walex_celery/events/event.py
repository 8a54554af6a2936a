"""The event that handlers and tasks get.

An event is made twice: by the producer from the cells of a row (``row_event.py``), and by a worker from the
JSON text in a task's message (``wire.py``). Both are an :class:`Event`, with the same values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from walex_celery.events.values import Numbers, TypeDefinition
from walex_celery.postgres.lsn import Lsn

if TYPE_CHECKING:
    from walex_celery.events.cells import Cell
    from walex_celery.events.record import Record
    from walex_celery.events.shape import Shape

EventType = Literal["insert", "update", "delete", "truncate", "message"]

#: ``None`` is possible, but an insert's or update's new row, and a delete's old one, are always there: code that is
#: about one type of event need not check (the convention of typeshed).
MaybeNone: TypeAlias = Any

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
        numbers: what numbers in json and jsonb are (setting ``numbers``); workers, which have no settings, go by it.
    """

    name: str
    version: str
    db: str
    schema: str
    table: str
    columns: dict[str, str]
    key: tuple[str, ...] = ()
    types: dict[str, TypeDefinition] = {}
    numbers: Numbers = "auto"

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

        Postgres sends them with ``REPLICA IDENTITY FULL``.
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
        """The parts of a task's message: :meth:`to_json`, a start of it that many events share, and the ``repr``."""
        return self.to_json(), b"", repr(self)

    @staticmethod
    def from_json(text: str | bytes) -> Event:
        """The event that :meth:`to_json` made *text* of; decoded when first looked at."""
        from walex_celery.events.wire import WireEvent  # it builds on this class

        return WireEvent(text)

    def __repr__(self) -> str:
        record = self.new_record if self.new_record is not None else self.old_record
        texts = record.texts(self.source.key) if record is not None else {}
        key = "".join(f" {printable(name)}={short(text)}" for name, text in texts.items())
        return f"<Event {self.type} {printable(self.source.full_name or self.name)}{key} lsn={self.lsn}>"

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
