"""The pgoutput protocol, version 1: bytes of the replication stream to messages.

Laid out as the manual lays it out, names included; every field stands in wire order. Source: manual,
section 54.9 "Logical Replication Message Formats"
(https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html).

Any bytes give a message or a :class:`~walex_celery.errors.DecodeError` (promise 10).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from struct import Struct as Layout
from struct import error as StructError
from typing import Final

import msgspec

from walex_celery.errors import DecodeError
from walex_celery.events.cells import UNCHANGED, Cell
from walex_celery.postgres.lsn import Lsn

POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

BEGIN, COMMIT, ORIGIN, RELATION, TYPE = b"BCORY"
INSERT, UPDATE, DELETE, TRUNCATE, MESSAGE = b"IUDTM"
KEY_TUPLE, OLD_TUPLE, NEW_TUPLE = b"KON"
_NULL, _UNCHANGED, _TEXT = b"nut"

TRUNCATE_CASCADE: Final = 1
TRUNCATE_RESTART_IDENTITY: Final = 2


class Message(msgspec.Struct, frozen=True):
    """Base of all messages of the stream."""


class Begin(Message, frozen=True):
    """B: a transaction starts. Postgres sends it, and all that follows, once the transaction has committed."""

    final_lsn: Lsn
    commit_timestamp: datetime
    xid: int


class Commit(Message, frozen=True):
    """C: the transaction is complete; ``end_lsn`` is what may be acknowledged once it is handled."""

    flags: int
    commit_lsn: Lsn
    end_lsn: Lsn
    commit_timestamp: datetime


class Origin(Message, frozen=True):
    """O: the transaction came from another server through replication origin ``name``."""

    commit_lsn: Lsn
    name: str


class Column(msgspec.Struct, frozen=True):
    """A column of a Relation message. ``key``: part of the replica identity (all columns with FULL)."""

    key: bool
    name: str
    type_oid: int
    type_modifier: int


class Relation(Message, frozen=True):
    """R: a table's shape; it holds for the rows after it until the next one for the same oid."""

    oid: int
    namespace: str
    name: str
    replica_identity: str
    columns: tuple[Column, ...]


class Type(Message, frozen=True):
    """Y: the name of a type that is not built in (of the base type, for a domain)."""

    oid: int
    namespace: str
    name: str


class Insert(Message, frozen=True):
    """I: a new row."""

    relation_oid: int
    new: tuple[Cell, ...]


class Update(Message, frozen=True):
    """U: a row's new state.

    ``old_kind`` says what ``old`` holds: ``"K"`` the key before it changed (other columns are null and
    mean nothing), ``"O"`` the whole old row (REPLICA IDENTITY FULL), ``""`` nothing.
    """

    relation_oid: int
    old_kind: str
    old: tuple[Cell, ...] | None
    new: tuple[Cell, ...]


class Delete(Message, frozen=True):
    """D: a deleted row; ``old_kind`` as in :class:`Update`."""

    relation_oid: int
    old_kind: str
    old: tuple[Cell, ...]


class Truncate(Message, frozen=True):
    """T: tables emptied by one TRUNCATE."""

    cascade: bool
    restart_identity: bool
    relation_oids: tuple[int, ...]


class LogicalMessage(Message, frozen=True):
    """M: what an application wrote with ``pg_logical_emit_message``; ``lsn`` is the message's own."""

    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes


# An "x" stands for the byte that names the message's kind.
_BEGIN = Layout("!xQqI")
_COMMIT = Layout("!xBQQq")
_INT64 = Layout("!Q")
_OID = Layout("!I")
_unpack_length = Layout("!I").unpack_from
_COLUMN_TAIL = Layout("!Ii")
_MESSAGE = Layout("!BQ")

#: Of the messages whose fields all have a fixed size: how many bytes they have.
BEGIN_LENGTH: Final = _BEGIN.size
COMMIT_LENGTH: Final = _COMMIT.size

# Single fields, for hot loops that need no whole message: 0.09 us, where int.from_bytes of a slice takes 0.22 and a
# function around either 0.05 more. A message that is too short raises struct.error; one too long is for the caller.
#: Of a Begin: final LSN, commit timestamp in microseconds, xid.
unpack_begin: Final = _BEGIN.unpack
#: Of a Commit: ``(end_lsn,)``. Flags and commit LSN stand before it.
unpack_commit_end_lsn: Final = Layout("!x9xQ").unpack_from
#: Of a Relation, Type, Insert, Update or Delete: ``(oid,)``.
unpack_oid: Final = Layout("!xI").unpack_from
#: First bytes of the messages that complete a transaction, or may stand outside of one; for ``bytes.startswith``.
COMPLETING: Final = (b"C", b"M")
#: How messages begin that describe what later rows need: Relation and Type; for ``bytes.startswith``.
DESCRIBING: Final = (b"R", b"Y")
_TRANSACTIONAL_MESSAGE: Final = b"M\x01"
# Kind and oid.
_DESCRIPTION_KEY: Final = slice(5)


#: The first and the last moment that a datetime holds, as the protocol counts them.
EARLIEST, LATEST = (
    (moment.replace(tzinfo=UTC) - POSTGRES_EPOCH) // timedelta(microseconds=1)
    for moment in (datetime.min, datetime.max)
)


def check_timestamp(microseconds: int) -> None:
    """Raise :class:`DecodeError` for a timestamp that no datetime can hold."""
    if not EARLIEST <= microseconds <= LATEST:
        raise DecodeError(f"a timestamp of {microseconds} us since 2000-01-01 is out of range")


def timestamp(microseconds: int) -> datetime:
    """A moment as the protocol counts it (microseconds since 2000-01-01 UTC) as an aware datetime."""
    check_timestamp(microseconds)
    return POSTGRES_EPOCH + timedelta(microseconds=microseconds)


def read_tuple(payload: bytes, offset: int) -> tuple[list[Cell], int]:
    """The TupleData at *offset*: its cells, and the offset after it.

    Cells stay the bytes that Postgres printed until they are read. The walk trusts the lengths and lets
    the caller compare the end with the payload's: offsets only grow, so a wrong length shows up there
    (:func:`check_end`), and nothing is checked per column.
    """
    cells: list[Cell] = []
    append = cells.append
    count = (payload[offset] << 8) | payload[offset + 1]
    offset += 2
    for _ in range(count):
        kind = payload[offset]
        if kind == _TEXT:
            # 0.2 us a column; int.from_bytes of a slice would take 0.27.
            (length,) = _unpack_length(payload, offset + 1)
            start = offset + 5
            offset = start + length
            append(payload[start:offset])
        elif kind == _NULL:
            append(None)
            offset += 1
        elif kind == _UNCHANGED:
            append(UNCHANGED)
            offset += 1
        else:
            raise DecodeError(f"TupleData: column {len(cells)} is of unknown kind {kind:#04x}")
    return cells, offset


def check_end(payload: bytes, offset: int, name: str) -> None:
    """Raise :class:`DecodeError` unless *offset* is exactly the end of *payload*."""
    if offset != len(payload):
        raise DecodeError(f"{name}: {len(payload)} bytes, but its fields take {offset}")


def _string(payload: bytes, offset: int, field: str) -> tuple[str, int]:
    end = payload.find(b"\0", offset)
    if end < 0:
        raise DecodeError(f"{field}: no end of string")
    # Names come in client_encoding, UTF-8; a SQL_ASCII database may hold any bytes.
    return payload[offset:end].decode("utf-8", "surrogateescape"), end + 1


def _begin(payload: bytes) -> Begin:
    check_end(payload, BEGIN_LENGTH, "Begin")
    final_lsn, commit_timestamp, xid = unpack_begin(payload)
    return Begin(Lsn(final_lsn), timestamp(commit_timestamp), xid)


def _commit(payload: bytes) -> Commit:
    check_end(payload, COMMIT_LENGTH, "Commit")
    flags, commit_lsn, end_lsn, commit_timestamp = _COMMIT.unpack(payload)
    return Commit(flags, Lsn(commit_lsn), Lsn(end_lsn), timestamp(commit_timestamp))


def _origin(payload: bytes) -> Origin:
    (commit_lsn,) = _INT64.unpack_from(payload, 1)
    name, end = _string(payload, 9, "Origin.Name")
    check_end(payload, end, "Origin")
    return Origin(Lsn(commit_lsn), name)


def _relation(payload: bytes) -> Relation:
    (oid,) = _OID.unpack_from(payload, 1)
    namespace, offset = _string(payload, 5, "Relation.Namespace")
    name, offset = _string(payload, offset, "Relation.RelationName")
    replica_identity = chr(payload[offset])
    count = (payload[offset + 1] << 8) | payload[offset + 2]
    offset += 3
    columns = []
    for number in range(count):
        flags = payload[offset]
        column, offset = _string(payload, offset + 1, f"Relation.Column[{number}].Name")
        type_oid, type_modifier = _COLUMN_TAIL.unpack_from(payload, offset)
        offset += 8
        columns.append(Column(bool(flags & 1), column, type_oid, type_modifier))
    check_end(payload, offset, "Relation")
    # An empty namespace stands for pg_catalog.
    return Relation(oid, namespace or "pg_catalog", name, replica_identity, tuple(columns))


def _type(payload: bytes) -> Type:
    (oid,) = _OID.unpack_from(payload, 1)
    namespace, offset = _string(payload, 5, "Type.Namespace")
    name, offset = _string(payload, offset, "Type.Name")
    check_end(payload, offset, "Type")
    return Type(oid, namespace or "pg_catalog", name)


def read_insert(payload: bytes) -> list[Cell]:
    """The new row of an Insert message."""
    if payload[5] != NEW_TUPLE:
        raise DecodeError(f"Insert: expected the new tuple 'N', found {payload[5]:#04x}")
    new, end = read_tuple(payload, 6)
    if end != len(payload):
        check_end(payload, end, "Insert")
    return new


def read_update(payload: bytes) -> tuple[int, list[Cell] | None, list[Cell]]:
    """The old tuple's kind (``0``, ``KEY_TUPLE`` or ``OLD_TUPLE``), the old tuple and the new one of an Update."""
    kind = payload[5]
    offset = 6
    old = None
    if kind in (OLD_TUPLE, KEY_TUPLE):
        old, offset = read_tuple(payload, offset)
        if payload[offset] != NEW_TUPLE:
            raise DecodeError(f"Update: expected the new tuple 'N', found {payload[offset]:#04x}")
        offset += 1
    elif kind == NEW_TUPLE:
        kind = 0
    else:
        raise DecodeError(f"Update: unknown tuple kind {kind:#04x}")
    new, end = read_tuple(payload, offset)
    if end != len(payload):
        check_end(payload, end, "Update")
    return kind, old, new


def read_delete(payload: bytes) -> tuple[int, list[Cell]]:
    """The old tuple's kind (``KEY_TUPLE`` or ``OLD_TUPLE``) and the old tuple of a Delete."""
    kind = payload[5]
    if kind not in (OLD_TUPLE, KEY_TUPLE):
        raise DecodeError(f"Delete: unknown tuple kind {kind:#04x}")
    old, end = read_tuple(payload, 6)
    if end != len(payload):
        check_end(payload, end, "Delete")
    return kind, old


def _insert(payload: bytes) -> Insert:
    (oid,) = _OID.unpack_from(payload, 1)
    return Insert(oid, tuple(read_insert(payload)))


def _update(payload: bytes) -> Update:
    (oid,) = _OID.unpack_from(payload, 1)
    kind, old, new = read_update(payload)
    return Update(oid, chr(kind) if kind else "", None if old is None else tuple(old), tuple(new))


def _delete(payload: bytes) -> Delete:
    (oid,) = _OID.unpack_from(payload, 1)
    kind, old = read_delete(payload)
    return Delete(oid, chr(kind), tuple(old))


def _truncate(payload: bytes) -> Truncate:
    (count,) = _OID.unpack_from(payload, 1)
    check_end(payload, 6 + 4 * count, "Truncate")
    options = payload[5]
    oids = tuple(_OID.unpack_from(payload, 6 + 4 * number)[0] for number in range(count))
    return Truncate(bool(options & TRUNCATE_CASCADE), bool(options & TRUNCATE_RESTART_IDENTITY), oids)


def _message(payload: bytes) -> LogicalMessage:
    flags, lsn = _MESSAGE.unpack_from(payload, 1)
    prefix, offset = _string(payload, 10, "Message.Prefix")
    (length,) = _OID.unpack_from(payload, offset)
    offset += 4
    check_end(payload, offset + length, "Message")
    return LogicalMessage(bool(flags & 1), Lsn(lsn), prefix, payload[offset:])


_DECODERS: Final[dict[int, Callable[[bytes], Message]]] = {
    BEGIN: _begin,
    COMMIT: _commit,
    ORIGIN: _origin,
    RELATION: _relation,
    TYPE: _type,
    INSERT: _insert,
    UPDATE: _update,
    DELETE: _delete,
    TRUNCATE: _truncate,
    MESSAGE: _message,
}


#: Messages of protocol versions 2 to 4, and what they belong to. This project asks for version 1.
_LATER: Final = {
    "S": ("Stream Start", "streaming"),
    "E": ("Stream Stop", "streaming"),
    "c": ("Stream Commit", "streaming"),
    "A": ("Stream Abort", "streaming"),
    "b": ("Begin Prepare", "two-phase commit"),
    "P": ("Prepare", "two-phase commit"),
    "K": ("Commit Prepared", "two-phase commit"),
    "r": ("Rollback Prepared", "two-phase commit"),
    "p": ("Stream Prepare", "streaming and two-phase commit"),
}


def _unknown(kind: int) -> DecodeError:
    text = f"unknown message type {kind:#04x}"
    if chr(kind) in _LATER:
        name, feature = _LATER[chr(kind)]
        text += f": {name}, of {feature}, which was not asked for (is the slot two_phase?)"
    return DecodeError(text)


def decode(payload: bytes) -> Message:
    """The message that *payload*, the data of one XLogData, holds.

    Raises:
        DecodeError: for anything that is not a whole message of protocol version 1.
    """
    if not payload:
        raise DecodeError("an empty message")
    decoder = _DECODERS.get(payload[0])
    if decoder is None:
        raise _unknown(payload[0])
    try:
        return decoder(payload)
    except (IndexError, StructError) as error:
        raise DecodeError(f"{chr(payload[0])!r} message cut short after {len(payload)} bytes") from error


def is_begin(payload: bytes) -> bool:
    """Whether a transaction starts with *payload*."""
    return payload[:1] == b"B"


def started_lsn(payload: bytes) -> int | None:
    """The final LSN of the transaction that starts with *payload*: where its commit record begins; else ``None``.

    Raises:
        DecodeError: for a Begin that is not whole.
    """
    if payload[:1] != b"B":
        return None
    check_end(payload, BEGIN_LENGTH, "Begin")
    final_lsn: int = unpack_begin(payload)[0]
    return final_lsn


def completed_lsn(payload: bytes) -> int | None:
    """The position reached with *payload*, if it completes a transaction or stands outside of one; else ``None``.

    Raises:
        DecodeError: for a Commit or a Message that is not whole.
    """
    kind = payload[:1]
    if kind == b"C":
        check_end(payload, COMMIT_LENGTH, "Commit")
        end_lsn: int = unpack_commit_end_lsn(payload)[0]
        return end_lsn
    return standalone_lsn(payload) if kind == b"M" else None


def standalone_lsn(payload: bytes) -> int | None:
    """The LSN of a Message outside of transactions; ``None`` for any other message.

    Raises:
        DecodeError: for a Message that is not whole.
    """
    if payload[:1] != b"M" or payload.startswith(_TRANSACTIONAL_MESSAGE):
        return None
    message = decode(payload)
    assert isinstance(message, LogicalMessage)
    return None if message.transactional else message.lsn


def description_key(payload: bytes) -> bytes | None:
    """The key of a Relation or Type message: a later message with the same key replaces it. Else ``None``.

    The keys of types sort after those of relations.
    """
    return payload[_DESCRIPTION_KEY] if payload.startswith(DESCRIBING) else None
