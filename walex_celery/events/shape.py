"""Shapes: what is the same for all rows of a relation, and how its rows become JSON and come back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec

from walex_celery.events.cells import (
    UNCHANGED,
    Awkward,
    Cell,
    decode_cell,
    encode_text,
    encoder,
    is_awkward,
    json_string,
    quick_encoder,
    text_of_cell,
)
from walex_celery.events.values import Definitions, Numbers, TypeDefinition, Wire, caster, wire_form

_NUMBERS = frozenset({"smallint", "integer", "bigint", "oid"})
_encode_json = msgspec.json.Encoder().encode

#: How a column's cells become JSON, by name.
_Kind = Literal["text", "bool", "number", "document"]


class Shape:
    """Names and types of a relation's columns, and how to cast and encode each.

    Args:
        columns: type name by column name, in column order.
        definitions: what the types that are not built in are made of, by type name.
        numbers: what those of JSON documents are.

    Attributes:
        kinds: how each column's cells become JSON; see :func:`~walex_celery.events.cells.encoder`.
        json_keys: how each column's member of a JSON object begins: the name, and a colon.
    """

    __slots__ = (
        "_casters",
        "_documents",
        "_encoders",
        "_forms",
        "_quick",
        "_row",
        "columns",
        "definitions",
        "index",
        "json_keys",
        "kinds",
        "names",
    )

    def __init__(
        self, columns: Mapping[str, str], definitions: Definitions, numbers: Numbers = "auto"
    ) -> None:
        self.columns = dict(columns)
        self.definitions = dict(definitions)
        self.names = tuple(columns)
        self.index = {name: number for number, name in enumerate(self.names)}
        self._casters = tuple(caster(type_name, definitions, numbers) for type_name in columns.values())
        self._forms = tuple(wire_form(type_name, definitions) for type_name in columns.values())
        self.json_keys = tuple(json_string(name) + b":" for name in self.names)
        self._encoders = tuple(map(encoder, self._forms))
        self.kinds = tuple(map(_kind, columns.values(), self._forms))
        self._documents = tuple(
            (number, name)
            for number, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True))
            if kind == "document"
        )
        self._quick = tuple(
            quick_encoder(form, document=kind == "document")
            for form, kind in zip(self._forms, self.kinds, strict=True)
        )
        self._row: Callable[..., Any] | None = None

    def cast(self, number: int, cell: bytes) -> Any:
        """The Python value of *cell* as column *number*."""
        return self._casters[number](text_of_cell(cell))

    def quick_json(self, cells: Sequence[Cell]) -> bytes:
        """As :meth:`to_json`, in a third of the time, for the usual row.

        Raises:
            Awkward: it has an UNCHANGED cell, text that is not UTF-8, a document that must stand as text, a bool that
                is neither t nor f; or a column has a name that msgspec can't write.
        """
        row = self._row or self._make_row()
        try:
            return _encode_json(
                row(*[None if cell is None else quick(cell) for quick, cell in zip(self._quick, cells)])  # noqa: B905
            )
        except (TypeError, UnicodeDecodeError, KeyError):
            raise Awkward from None  # none of them takes UNCHANGED

    def _make_row(self) -> Callable[..., Any]:
        """Make the type of the rows that msgspec writes: its fields' names are escaped once."""
        fields = [f"column_{number}" for number in range(len(self.names))]
        try:
            self._row = msgspec.defstruct(
                "Row",
                [(field, Any) for field in fields],
                rename=dict(zip(fields, self.names, strict=True)),
                gc=False,
            )
        except (ValueError, UnicodeError):  # quotes, control characters, lone surrogates
            self._row = _refuse
        return self._row

    def to_json(self, cells: Sequence[Cell], as_text: Collection[str] = ()) -> bytes:
        """The row as a JSON object: one member for each column that Postgres sent, in column order.

        Columns named in *as_text* (see :meth:`awkward_documents`) stand as a string of Postgres' text.
        """
        return self.some_json(cells, range(len(cells)), as_text)

    def some_json(
        self, cells: Sequence[Cell], numbers: Iterable[int], as_text: Collection[str] = ()
    ) -> bytes:
        """As :meth:`to_json`, of the columns *numbers*."""
        members = []
        for number in numbers:
            cell = cells[number]
            if cell is None:
                members.append(self.json_keys[number] + b"null")
            elif cell is not UNCHANGED:
                encode = encode_text if self.names[number] in as_text else self._encoders[number]
                members.append(self.json_keys[number] + encode(cell))
        return b"{" + b",".join(members) + b"}"

    def from_json(self, members: Mapping[str, msgspec.Raw], as_text: Collection[str] = ()) -> list[Cell]:
        """The cells that :meth:`to_json` made *members* of."""
        cells: list[Cell] = []
        for name, form in zip(self.names, self._forms, strict=True):
            member = members.get(name)
            if member is None:
                cells.append(UNCHANGED)
            else:
                literal = bytes(member)
                text_form = Wire.TEXT if name in as_text else form
                cells.append(None if literal == b"null" else decode_cell(literal, text_form))
        return cells

    def awkward_documents(self, cells: Sequence[Cell]) -> list[str]:
        """The JSON columns of a row whose documents are awkward (see :func:`~walex_celery.events.cells.is_awkward`)."""
        return [
            name
            for number, name in self._documents
            if isinstance(cell := cells[number], bytes) and is_awkward(cell)
        ]


def _kind(type_name: str, form: Wire) -> _Kind:
    if form is Wire.TEXT:
        return "text"
    if form is Wire.BOOL:
        return "bool"
    return "number" if type_name in _NUMBERS else "document"


def _refuse(*_: object) -> None:
    raise Awkward


@lru_cache(maxsize=1024)
def shared_shape(
    columns: tuple[tuple[str, str], ...],
    definitions: tuple[tuple[str, TypeDefinition], ...],
    numbers: Numbers,
) -> Shape:
    """The shape that a worker reads a table's rows with; made once for each table it meets."""
    return Shape(dict(columns), dict(definitions), numbers)
