"""Cells: the values of a row as Postgres printed them, and how each becomes JSON and comes back."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from typing import Any, Final

import msgspec

from walex_celery.errors import DecodeError
from walex_celery.events.values.wire_form import Wire


class _Unchanged(enum.Enum):
    UNCHANGED = "unchanged TOAST value"


#: The cell of a TOASTed value that an update left alone: Postgres does not send it.
UNCHANGED: Final = _Unchanged.UNCHANGED

#: A value as Postgres printed it (UTF-8), ``None`` for NULL, or :data:`UNCHANGED`.
Cell = bytes | None | _Unchanged

#: A JSON document with more brackets than this goes over the wire as a string: JSON readers refuse deep ones.
MAX_NESTING: Final = 200

_decode_string = msgspec.json.Decoder(str).decode
_encode_json = msgspec.json.Encoder().encode


class Awkward(Exception):
    """A row that :meth:`~walex_celery.events.shape.Shape.quick_json` leaves to the longer way."""


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


def is_awkward(document: bytes) -> bool:
    """Whether a JSON document can't stand as it is inside another one.

    That is ``null``, which would read as SQL's NULL, one nested so deep that JSON readers refuse it, and one that
    would not come back unchanged: with spaces around it (the type json keeps them), or not in UTF-8 (SQL_ASCII).
    """
    if len(document) > MAX_NESTING and document.count(b"[") + document.count(b"{") > MAX_NESTING:
        return True
    if document == b"null" or document[:1] <= b" " or document[-1:] <= b" ":
        return True
    return not (document.isascii() or _is_utf8(document))


def _is_utf8(document: bytes) -> bool:
    try:
        document.decode()
    except UnicodeDecodeError:
        return False
    return True


def encode_text(cell: bytes) -> bytes:
    """*cell* as a JSON string."""
    try:
        return _encode_json(cell.decode())
    except UnicodeDecodeError:
        return json_string(text_of_cell(cell))


class _Bools(dict[bytes, bytes]):
    def __missing__(self, cell: bytes) -> bytes:
        raise DecodeError(f"a bool is t or f, not {cell[:40]!r}")


_encode_bool = _Bools({b"t": b"true", b"f": b"false"}).__getitem__


def encoder(form: Wire) -> Callable[[bytes], bytes]:
    """The function from a cell to a JSON literal: a string of Postgres' text, except for what JSON holds exactly."""
    if form is Wire.TEXT:
        return encode_text
    if form is Wire.BOOL:
        return _encode_bool
    # bytes() of bytes returns them unchanged, in C. A number is always ASCII; for documents see is_awkward.
    return bytes


def _plain_document(cell: bytes) -> msgspec.Raw:
    if is_awkward(cell):
        raise Awkward
    return msgspec.Raw(cell)


_quick_bool = {b"t": True, b"f": False}.__getitem__


def quick_encoder(form: Wire, *, document: bool) -> Callable[[Any], Any]:
    """The function from a cell to a value that msgspec writes as :func:`encoder` does.

    It makes no call into Python, except for documents. It raises for what it can't do; see ``Shape.quick_json``.
    """
    if form is Wire.TEXT:
        return bytes.decode
    if form is Wire.BOOL:
        return _quick_bool
    return _plain_document if document else msgspec.Raw


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
