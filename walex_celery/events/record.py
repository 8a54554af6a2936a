"""Rows: cells as Postgres printed them, and the mapping that casts a column when somebody reads it.

A row is moved as a list of cells, in column order, through the producer, over the broker as JSON and into
the worker, where it is a list of the same cells again; it is typed only on access, by one piece of code
(promise 7).
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec

from walex_celery.errors import DecodeError
from walex_celery.events.values import Definitions, TypeDefinition, Wire, caster, wire_form


class _Unchanged(enum.Enum):
    UNCHANGED = "unchanged TOAST value"


#: The cell of a TOASTed value that an update left alone: Postgres does not send it.
UNCHANGED: Final = _Unchanged.UNCHANGED

#: A value as Postgres printed it (UTF-8), ``None`` for NULL, or :data:`UNCHANGED`.
Cell = bytes | None | _Unchanged

#: A JSON document with more brackets than this goes over the wire as a string: JSON readers refuse deep ones.
MAX_NESTING: Final = 200

_NUMBERS = frozenset({"smallint", "integer", "bigint", "oid"})
_decode_string = msgspec.json.Decoder(str).decode
_encode_json = msgspec.json.Encoder().encode


def text_of_cell(cell: bytes) -> str:
    """The text of a cell.

    The stream's client_encoding is UTF-8; only a SQL_ASCII database sends other bytes, and those are kept
    as lone surrogates rather than lost (PEP 383).
    """
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return cell.decode("utf-8", "surrogateescape")


def json_string(text: str) -> bytes:
    """*text* as a JSON string, lone surrogates included."""
    try:
        return _encode_json(text)
    except UnicodeEncodeError:
        return json.dumps(text).encode()


def _encode_text(cell: bytes) -> bytes:
    try:
        return _encode_json(cell.decode())
    except UnicodeDecodeError:
        return json_string(text_of_cell(cell))


class Awkward(Exception):
    """A row that :meth:`Shape.quick_json` leaves to the longer way."""


def _plain_document(cell: bytes) -> msgspec.Raw:
    if is_awkward(cell):
        raise Awkward
    return msgspec.Raw(cell)


#: What makes a cell a value that msgspec writes as :func:`encoder` does; without a call into Python, but for documents.
_QUICK: Final[dict[Wire, Callable[[Any], Any]]] = {
    Wire.TEXT: bytes.decode,
    Wire.BOOL: {b"t": True, b"f": False}.__getitem__,
    Wire.RAW: msgspec.Raw,
}


def is_awkward(document: bytes) -> bool:
    """Whether a JSON document can't stand as it is inside another one.

    That is ``null``, which would read as SQL's NULL, one nested so deep that JSON readers refuse it, and what would
    not come back as it went: with spaces around it (the type json keeps them), or not in UTF-8 (SQL_ASCII).
    """
    if len(document) > MAX_NESTING and document.count(b"[") + document.count(b"{") > MAX_NESTING:
        return True
    if document == b"null" or document[:1] <= b" " or document[-1:] <= b" ":
        return True
    return not (document.isascii() or _is_utf8(document))


class _Bools(dict[bytes, bytes]):
    def __missing__(self, cell: bytes) -> bytes:
        raise DecodeError(f"a bool is t or f, not {cell[:40]!r}")


_encode_bool = _Bools({b"t": b"true", b"f": b"false"}).__getitem__


def encoder(form: Wire) -> Callable[[bytes], bytes]:
    """What makes a cell a JSON literal: Postgres' own text as a string, but for what JSON holds exactly."""
    if form is Wire.TEXT:
        return _encode_text
    if form is Wire.BOOL:
        return _encode_bool
    # bytes() of bytes gives them back, in C. A number is always ASCII; of a document see is_awkward.
    return bytes


def decode_cell(literal: bytes, form: Wire) -> bytes:
    """The cell that :func:`encoder` made *literal* of."""
    if form is Wire.TEXT:
        try:
            return _decode_string(literal).encode()
        except (msgspec.DecodeError, UnicodeEncodeError):
            # Lone surrogates (see text_of_cell) are valid for json, not for msgspec.
            return str(json.loads(literal)).encode("utf-8", "surrogateescape")
    if form is Wire.RAW:
        return literal
    return b"t" if literal == b"true" else b"f"


def _is_utf8(document: bytes) -> bool:
    try:
        document.decode()
    except UnicodeDecodeError:
        return False
    return True


class Shape:
    """What is the same for all rows of a relation: names, types, and how to cast and encode each column.

    Args:
        columns: type name by column name, in column order.
        definitions: what the types that are not built in are made of, by type name.
    """

    __slots__ = (
        "_casters",
        "_documents",
        "_encoders",
        "_forms",
        "_keys",
        "_quick",
        "_row",
        "columns",
        "definitions",
        "index",
        "names",
    )

    def __init__(self, columns: Mapping[str, str], definitions: Definitions) -> None:
        self.columns = dict(columns)
        self.definitions = dict(definitions)
        self.names = tuple(columns)
        self.index = {name: number for number, name in enumerate(self.names)}
        self._casters = tuple(caster(type_name, definitions) for type_name in columns.values())
        self._forms = tuple(wire_form(type_name, definitions) for type_name in columns.values())
        self._keys = tuple(json_string(name) + b":" for name in self.names)
        self._encoders = tuple(map(encoder, self._forms))
        self._documents = tuple(
            (number, name)
            for number, (name, form) in enumerate(zip(self.names, self._forms, strict=True))
            if form is Wire.RAW and columns[name] not in _NUMBERS
        )
        quick = [_QUICK[form] for form in self._forms]
        for number, _ in self._documents:
            quick[number] = _plain_document
        self._quick = tuple(quick)
        self._row: Callable[..., Any] | None = None

    @property
    def json_keys(self) -> tuple[bytes, ...]:
        """Of each column, what its member of a JSON object begins with: the name, and a colon."""
        return self._keys

    @property
    def kinds(self) -> tuple[Literal["text", "bool", "number", "document"], ...]:
        """How each column's cells become JSON; see :func:`encoder`."""
        documents = {number for number, _ in self._documents}
        return tuple(
            "text"
            if form is Wire.TEXT
            else "bool"
            if form is Wire.BOOL
            else "document"
            if number in documents
            else "number"
            for number, form in enumerate(self._forms)
        )

    def cast(self, number: int, cell: bytes) -> Any:
        """The Python value of *cell* as column *number*."""
        return self._casters[number](text_of_cell(cell))

    def quick_json(self, cells: Sequence[Cell]) -> bytes:
        """As :meth:`to_json`, in a third of the time, for the usual row.

        Raises:
            Awkward: it has an UNCHANGED cell, text that is not UTF-8, a document that must stand as text, a bool that
                is none; or a column has a name that msgspec can't write.
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
        """The row as a JSON object: one member a column that Postgres sent, in column order.

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
                members.append(self._keys[number] + b"null")
            elif cell is not UNCHANGED:
                encode = _encode_text if self.names[number] in as_text else self._encoders[number]
                members.append(self._keys[number] + encode(cell))
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
        """The JSON columns of a row whose documents are awkward (see :func:`is_awkward`)."""
        return [
            name
            for number, name in self._documents
            if isinstance(cell := cells[number], bytes) and is_awkward(cell)
        ]


def _refuse(*_: object) -> None:
    raise Awkward


class Record(Mapping[str, Any]):
    """A row: a read-only mapping of column name to Python value, cast when first read.

    Columns keep the table's order. A TOASTed value that an update left alone and that the old row does not
    tell is absent, never ``None``. Equal to a ``dict`` of the same items; ``dict(record)`` makes one.
    """

    __slots__ = ("_cells", "_shape", "_values")

    def __init__(self, shape: Shape, cells: Sequence[Cell]) -> None:
        self._shape = shape
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
            raise KeyError(name)
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


@lru_cache(maxsize=1024)
def shared_shape(
    columns: tuple[tuple[str, str], ...], definitions: tuple[tuple[str, TypeDefinition], ...]
) -> Shape:
    """The shape that a worker reads a table's rows with; made once for each table it meets."""
    return Shape(dict(columns), dict(definitions))
