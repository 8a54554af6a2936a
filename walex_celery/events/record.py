"""Records: a row as a mapping that casts a column when it is read.

A row is moved as a list of cells, in column order, through the producer, over the broker as JSON and into
the worker, where it is a list of the same cells again. It is cast only on access, by one piece of code
(promise 7).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from walex_celery.events.cells import UNCHANGED, text_of_cell
from walex_celery.events.event import printable

if TYPE_CHECKING:
    from walex_celery.events.cells import Cell
    from walex_celery.events.event import Source
    from walex_celery.events.shape import Shape


class NotSent(KeyError):
    """A column that the row has, and whose value Postgres did not send."""

    def __str__(self) -> str:
        # A KeyError's own is the repr, where a line break is an escape.
        return str(self.args[0]) if self.args else ""


def _not_sent(name: str, source: Source | None) -> str:
    table = "your_table" if source is None else ".".join(map(_identifier, (source.schema, source.table)))
    return (
        f"{printable(name)!r} is not in this record, because Postgres did not send it: an update leaves out TOASTed "
        "values (large ones) that it did not change, and a delete leaves out all but the replica identity. It may be "
        f"anything, so it is not None; check with {printable(name)!r} in record, or use record.get()\n"
        f"  fix: ALTER TABLE {table} REPLICA IDENTITY FULL; -- and the same for its partitions, if it has any"
    )


def _identifier(name: str) -> str:
    plain = re.fullmatch("[a-z_][a-z0-9_]*", name)
    return name if plain else '"' + printable(name).replace('"', '""') + '"'


class Record(Mapping[str, Any]):
    """A row: a read-only mapping of column name to Python value, cast when first read.

    Columns keep the table's order. A TOASTed value that an update left alone, and that the old row does not
    have either, is absent, never ``None``: reading it is a KeyError that says how to have it.
    Equal to a ``dict`` of the same items; ``dict(record)`` makes one.
    """

    __slots__ = ("_cells", "_shape", "_source", "_values")

    def __init__(self, shape: Shape, cells: Sequence[Cell], source: Source | None = None) -> None:
        self._shape = shape
        self._source = source
        self._cells = cells
        self._values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            pass
        number = self._shape.index[name]
        cell = self._cells[number]
        if cell is UNCHANGED:
            raise NotSent(_not_sent(name, self._source))
        value = None if cell is None else self._shape.cast(number, cell)
        self._values[name] = value
        return value

    def __iter__(self) -> Iterator[str]:
        return (
            name for name, cell in zip(self._shape.names, self._cells, strict=True) if cell is not UNCHANGED
        )

    def __len__(self) -> int:
        return sum(cell is not UNCHANGED for cell in self._cells)

    def __contains__(self, name: object) -> bool:
        number = self._shape.index.get(name) if isinstance(name, str) else None
        return number is not None and self._cells[number] is not UNCHANGED

    def __eq__(self, other: object) -> bool:
        # As Mapping's own; said here so that a strict checker lets users compare a record to a dict.
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        """What kombu's JSON serializer puts into a message when a task passes a record on."""
        return dict(self)

    def texts(self, names: Iterable[str] | None = None) -> dict[str, str | None]:
        """The row as Postgres printed it, or the columns *names* of it: each one's text, ``None`` for NULL."""
        texts = {}
        for name in self._shape.names if names is None else names:
            cell = self._cells[self._shape.index[name]]
            if cell is not UNCHANGED:
                texts[name] = None if cell is None else text_of_cell(cell)
        return texts
