"""Records: what a segment's file is made of.

A record is a head and a body. The head, big-endian: the body's length (4 bytes), the CRC-32 of the head's rest and
of the body (4), flags (1), the position reached (8). The body is MessagePack: of the first record of a segment a
:class:`Header`, of all others a list of messages, ``[payload, lsn]`` each.

One record holds what was read at once, up to a slice of the stream, so that the cost of a record is shared.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

import msgspec

from walex_celery.postgres.pgoutput import DESCRIBING, completed_lsn, description_key
from walex_celery.postgres.stream import StreamMessage

#: Flags. One is always set, so that a stretch of zeros is no record.
HEADER: Final = 1
MESSAGES: Final = 2
#: Its last message completes a transaction, or stands outside of one.
WHOLE: Final = 4
#: It has Relation or Type messages, which later rows need.
DESCRIBES: Final = 8

_LENGTH_AND_CRC: Final = Struct(">II")
_FLAGS_AND_LSN: Final = Struct(">BQ")
HEAD_BYTES: Final = _LENGTH_AND_CRC.size + _FLAGS_AND_LSN.size

_encoder = msgspec.msgpack.Encoder()
_message_decoder = msgspec.msgpack.Decoder(list[StreamMessage])


class Header(msgspec.Struct, frozen=True, array_like=True):
    """Whose a segment is, and what its rows rest on.

    Attributes:
        system_identifier: of the cluster.
        timeline: of the cluster: after a failover positions mean something else.
        slot: the slot's name.
        number: of the segment.
        end_lsn: the position that the segments before it reach; 0 where there are none of this timeline.
        in_transaction: whether it begins inside a transaction.
        described: the newest Type and Relation messages of the segments before it.
        publications: a checksum of those that its messages are published by; see ``sources/history.py``.
        landmark: what ends at *end_lsn*, as text; empty if that is not known.
        opened: what it begins inside of, as text.

    Those after *described* are not in segments of older versions.
    """

    system_identifier: int
    timeline: int
    slot: str
    number: int
    end_lsn: int
    in_transaction: bool
    described: list[StreamMessage]
    publications: int = 0
    landmark: str = ""
    opened: str = ""


_header_decoder = msgspec.msgpack.Decoder(Header)


class BadRecord(Exception):
    """Bytes that are no record: torn, or altered. Its text says how."""


class Record(NamedTuple):
    """A record, its body not decoded yet.

    ``end_lsn`` is the position that its last message reaches, 0 if that does not complete a transaction.
    ``size`` is its own, in bytes.
    """

    flags: int
    end_lsn: int
    body: bytes
    size: int

    def messages(self) -> list[StreamMessage]:
        """The messages."""
        return _message_decoder.decode(self.body)

    def header(self) -> Header:
        """The header; BadRecord if it is none."""
        if not self.flags & HEADER:
            raise BadRecord("no header where one should be")
        try:
            return _header_decoder.decode(self.body)
        except msgspec.DecodeError as error:
            raise BadRecord(f"a header that can't be read: {error}") from error


def encode_header(header: Header) -> bytes:
    """The record of a segment's header."""
    return b"".join(_encode(HEADER, 0, _encoder.encode(header)))


def encode_messages(messages: list[StreamMessage], end_lsn: int | None) -> tuple[bytes, bytes]:
    """The head and the body of a record; *end_lsn* if its last message completes a transaction."""
    flags = MESSAGES
    if end_lsn is not None:
        flags |= WHOLE
    if any(message.payload.startswith(DESCRIBING) for message in messages):
        flags |= DESCRIBES
    return _encode(flags, end_lsn or 0, _encoder.encode(messages))


def _encode(flags: int, end_lsn: int, body: bytes) -> tuple[bytes, bytes]:
    rest = _FLAGS_AND_LSN.pack(flags, end_lsn)
    return _LENGTH_AND_CRC.pack(len(body), zlib.crc32(body, zlib.crc32(rest))) + rest, body


def record_bytes(buffer: bytes, at: int) -> int:
    """How many bytes the record at *at* says it has; *buffer* must hold its head."""
    length, _ = _LENGTH_AND_CRC.unpack_from(buffer, at)
    return HEAD_BYTES + int(length)


def parse(buffer: bytes, at: int) -> Record:
    """The record that begins at *at*.

    Raises:
        BadRecord: there is none, or not all of it.
    """
    left = len(buffer) - at
    if left < HEAD_BYTES:
        raise BadRecord(f"a record of {left} bytes, which is too few for its head")
    length, crc = _LENGTH_AND_CRC.unpack_from(buffer, at)
    if length > left - HEAD_BYTES:
        raise BadRecord(f"a record of {length} bytes, of which {left - HEAD_BYTES} are there")
    rest = buffer[at + _LENGTH_AND_CRC.size : at + HEAD_BYTES]
    body = buffer[at + HEAD_BYTES : at + HEAD_BYTES + length]
    if zlib.crc32(body, zlib.crc32(rest)) != crc:
        raise BadRecord("a record whose checksum is wrong")
    flags, end_lsn = _FLAGS_AND_LSN.unpack(rest)
    if not flags & (HEADER | MESSAGES):
        raise BadRecord(f"a record of unknown kind {flags}")
    return Record(flags, end_lsn, body, HEAD_BYTES + length)


def whole_part(messages: list[StreamMessage]) -> tuple[int, int]:
    """How many of *messages* lead up to the end of the last whole transaction, and the position that it reaches.

    ``(0, 0)`` if none ends among them.
    """
    for index in range(len(messages) - 1, -1, -1):
        end_lsn = completed_lsn(messages[index].payload)
        if end_lsn is not None:
            return index + 1, end_lsn
    return 0, 0


class Described:
    """The newest Relation message of each table, and Type message of each type.

    Postgres sends them once a connection, before the first row that needs them.
    """

    def __init__(self, messages: Iterable[StreamMessage] = ()) -> None:
        self._newest: dict[bytes, StreamMessage] = {}
        self.note(messages)

    def note(self, messages: Iterable[StreamMessage]) -> None:
        """Remember those among *messages*."""
        for message in messages:
            key = description_key(message.payload)
            if key is not None:
                self._newest[key] = message

    def messages(self) -> list[StreamMessage]:
        """All of them; types first, for relations use them."""
        return [self._newest[key] for key in sorted(self._newest, reverse=True)]
