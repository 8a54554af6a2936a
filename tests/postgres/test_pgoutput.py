"""The messages of protocol 1, byte by byte (promise 10).

Manual: "Logical Replication Message Formats"; comments name its fields.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walex_celery import DecodeError, Lsn
from walex_celery.events.cells import UNCHANGED
from walex_celery.postgres import pgoutput
from walex_celery.postgres.pgoutput import (
    Begin,
    Column,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Origin,
    Relation,
    Truncate,
    Type,
    Update,
    decode,
)

BEGIN = (
    b"B"
    b"\x00\x00\x00\x00\x01\x6b\x37\x48"  # Int64 final LSN of the transaction: 0/16B3748
    b"\x00\x02\x3e\x1e\x36\xf9\x6d\x40"  # Int64 commit timestamp, microseconds since 2000-01-01
    b"\x00\x00\x02\xe6"  # Int32 xid: 742
)
COMMIT = (
    b"C"
    b"\x00"  # Int8 flags, currently unused
    b"\x00\x00\x00\x01\x01\x6b\x37\x48"  # Int64 LSN of the commit: 1/16B3748
    b"\x00\x00\x00\x01\x01\x6b\x37\x78"  # Int64 end LSN of the transaction: 1/16B3778
    b"\xff\xff\xff\xff\xff\xff\xff\xff"  # Int64 commit timestamp: a microsecond before 2000
)
ORIGIN = (
    b"O"
    b"\x00\x00\x00\x00\x01\x6b\x37\x48"  # Int64 LSN of the commit on the origin server
    b"far away\x00"  # String name of the origin
)
RELATION = (
    b"R"
    b"\x00\x00\x40\x01"  # Int32 oid: 16385
    b"sales\x00"  # String namespace
    b"orders\x00"  # String relation name
    b"d"  # Int8 replica identity: default
    b"\x00\x02"  # Int16 number of columns
    b"\x01"  # Int8 flags: 1, part of the key
    b"id\x00"  # String column name
    b"\x00\x00\x00\x17"  # Int32 type oid: 23, int4
    b"\xff\xff\xff\xff"  # Int32 type modifier: -1
    b"\x00"  # Int8 flags
    b"pr\xc3\xa9nom\x00"  # String column name, UTF-8
    b"\x00\x00\x04\x13"  # Int32 type oid: 1043, varchar
    b"\x00\x00\x00\x24"  # Int32 type modifier: 36, varchar(32)
)
TYPE = (
    b"Y"
    b"\x00\x00\x40\x0a"  # Int32 oid: 16394
    b"public\x00"  # String namespace
    b"mood\x00"  # String name
)
INSERT = (
    b"I"
    b"\x00\x00\x40\x01"  # Int32 oid of the relation
    b"N"  # Byte1: a new tuple follows
    b"\x00\x03"  # Int16 number of columns
    b"t\x00\x00\x00\x0242"  # Byte1 't', Int32 length, text
    b"n"  # Byte1 'n': NULL
    b"t\x00\x00\x00\x00"  # an empty string
)
UPDATE = (
    b"U"
    b"\x00\x00\x40\x01"  # Int32 oid of the relation
    b"N"  # Byte1: the new tuple follows; the key did not change, the identity is not FULL
    b"\x00\x02"
    b"t\x00\x00\x00\x0242"
    b"u"  # Byte1 'u': a TOASTed value that did not change
)
UPDATE_OF_KEY = (
    b"U\x00\x00\x40\x01"
    b"K"  # Byte1: the old key follows, NULL where it knows nothing
    b"\x00\x02t\x00\x00\x00\x0242n"
    b"N"  # Byte1: the new tuple follows
    b"\x00\x02t\x00\x00\x00\x0243t\x00\x00\x00\x01a"
)
UPDATE_FULL = (
    b"U\x00\x00\x40\x01"
    b"O"  # Byte1: the whole old tuple follows
    b"\x00\x02t\x00\x00\x00\x0242t\x00\x00\x00\x01a"
    b"N"  # Byte1: the new tuple follows
    b"\x00\x02t\x00\x00\x00\x0242n"
)
DELETE = b"D\x00\x00\x40\x01K\x00\x02t\x00\x00\x00\x0242n"
DELETE_FULL = b"D\x00\x00\x40\x01O\x00\x02t\x00\x00\x00\x0242t\x00\x00\x00\x01a"
TRUNCATE = (
    b"T"
    b"\x00\x00\x00\x02"  # Int32 number of relations
    b"\x03"  # Int8 options: 1 CASCADE, 2 RESTART IDENTITY
    b"\x00\x00\x40\x01"  # Int32 oid of a relation, for each
    b"\x00\x00\x40\x05"
)
MESSAGE = (
    b"M"
    b"\x01"  # Int8 flags: 1, transactional
    b"\x00\x00\x00\x00\x01\x6b\x37\x10"  # Int64 LSN of the message
    b"audit\x00"  # String prefix
    b"\x00\x00\x00\x03"  # Int32 length of the content
    b"\x00\xff\n"  # Byten content
)

MESSAGES = {
    "Begin": (BEGIN, Begin(Lsn(0x16B3748), datetime(2020, 1, 2, 3, 4, 5, 678400, UTC), 742)),
    "Commit": (
        COMMIT,
        Commit(
            0, Lsn.parse("1/16B3748"), Lsn.parse("1/16B3778"), datetime(1999, 12, 31, 23, 59, 59, 999999, UTC)
        ),
    ),
    "Origin": (ORIGIN, Origin(Lsn(0x16B3748), "far away")),
    "Relation": (
        RELATION,
        Relation(
            16385,
            "sales",
            "orders",
            "d",
            (Column(True, "id", 23, -1), Column(False, "prénom", 1043, 36)),
        ),
    ),
    "Type": (TYPE, Type(16394, "public", "mood")),
    "Insert": (INSERT, Insert(16385, (b"42", None, b""))),
    "Update": (UPDATE, Update(16385, "", None, (b"42", UNCHANGED))),
    "Update of the key": (UPDATE_OF_KEY, Update(16385, "K", (b"42", None), (b"43", b"a"))),
    "Update with FULL": (UPDATE_FULL, Update(16385, "O", (b"42", b"a"), (b"42", None))),
    "Delete": (DELETE, Delete(16385, "K", (b"42", None))),
    "Delete with FULL": (DELETE_FULL, Delete(16385, "O", (b"42", b"a"))),
    "Truncate": (TRUNCATE, Truncate(True, True, (16385, 16389))),
    "Message": (MESSAGE, LogicalMessage(True, Lsn(0x16B3710), "audit", b"\x00\xff\n")),
}
PAYLOADS = [payload for payload, _ in MESSAGES.values()]


@pytest.mark.parametrize(("payload", "expected"), MESSAGES.values(), ids=MESSAGES.keys())
def test_each_message_is_read_field_by_field(payload: bytes, expected: pgoutput.Message) -> None:
    assert decode(payload) == expected


@pytest.mark.parametrize("payload", PAYLOADS, ids=MESSAGES.keys())
def test_every_truncation_is_an_error(payload: bytes) -> None:
    for length in range(len(payload)):
        with pytest.raises(DecodeError):
            decode(payload[:length])


@pytest.mark.parametrize("payload", PAYLOADS, ids=MESSAGES.keys())
def test_a_byte_too_many_is_an_error(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(payload + b"\x00")


def test_an_empty_namespace_is_pg_catalog() -> None:
    assert decode(b"Y\x00\x00\x00\x17\x00int4\x00") == Type(23, "pg_catalog", "int4")


def test_a_name_that_is_not_utf8_keeps_its_bytes() -> None:
    """A SQL_ASCII database may hold any (PEP 383)."""
    read = decode(b"Y\x00\x00\x40\x0a\xff\x00\xe9t\xe9\x00")

    assert read == Type(16394, "\udcff", "\udce9t\udce9")


def test_a_message_outside_of_transactions_has_no_flag() -> None:
    read = decode(b"M\x00\x00\x00\x00\x00\x01\x6b\x37\x10p\x00\x00\x00\x00\x00")

    assert read == LogicalMessage(False, Lsn(0x16B3710), "p", b"")


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"", "an empty message"),
        (b"\xff", "unknown message type 0xff$"),
        (
            b"S\x00\x00\x02\xe6\x01",
            "unknown message type 0x53: Stream Start, of streaming, which was not asked for",
        ),
        (b"b\x00", "unknown message type 0x62: Begin Prepare, of two-phase commit, which was not asked for"),
        (b"p\x00", "unknown message type 0x70: Stream Prepare, of streaming and two-phase commit"),
        (b"I\x00\x00\x40\x01O\x00\x00", "expected the new tuple 'N', found 0x4f"),
        (b"U\x00\x00\x40\x01X\x00\x00", "unknown tuple kind 0x58"),
        (b"U\x00\x00\x40\x01K\x00\x00O\x00\x00", "expected the new tuple 'N', found 0x4f"),
        (b"D\x00\x00\x40\x01N\x00\x00", "unknown tuple kind 0x4e"),
        # 'b', a binary value, comes only where binary was asked for.
        (b"I\x00\x00\x40\x01N\x00\x02nb\x00\x00\x00\x01a", "column 1 is of unknown kind 0x62"),
        (b"I\x00\x00\x40\x01N\x00\x01t\xff\xff\xff\xffa", "Insert: 14 bytes"),
        (b"I\x00\x00\x40\x01N\xff\xffn", "cut short"),
        (b"R\x00\x00\x40\x01public", "Relation.Namespace: no end of string"),
        (b"R\x00\x00\x40\x01s\x00t\x00d\x00\x01\x00id", r"Relation.Column\[0\].Name: no end of string"),
        (b"T\xff\xff\xff\xff\x00", "Truncate: 6 bytes"),
        (b"B" + b"\x7f" * 20, "out of range"),
    ],
)
def test_an_error_says_what_is_wrong(payload: bytes, complaint: str) -> None:
    with pytest.raises(DecodeError, match=complaint):
        decode(payload)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(payload: bytes) -> None:
    with suppress(DecodeError):
        assert isinstance(decode(payload), pgoutput.Message)


@given(kind=st.sampled_from(sorted(b"BCORYIUDTM")), rest=st.binary(max_size=60))
def test_any_bytes_after_a_known_type_are_a_message_or_an_error(kind: int, rest: bytes) -> None:
    with suppress(DecodeError):
        assert isinstance(decode(bytes([kind]) + rest), pgoutput.Message)


@given(
    payload=st.sampled_from(PAYLOADS),
    changes=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 5),
)
def test_a_damaged_message_is_a_message_or_an_error(
    payload: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    damaged = bytearray(payload)
    for place, value in changes:
        damaged[place % len(damaged)] = value

    with suppress(DecodeError):
        assert isinstance(decode(bytes(damaged[: len(damaged) - cut])), pgoutput.Message)


# --- single fields -----------------------------------------------------------------------------------


def test_a_field_read_alone_is_the_one_of_the_whole_message() -> None:
    begin, commit = decode(BEGIN), decode(COMMIT)
    assert isinstance(begin, Begin)
    assert isinstance(commit, Commit)

    final_lsn, microseconds, xid = pgoutput.unpack_begin(BEGIN)

    assert Begin(Lsn(final_lsn), pgoutput.timestamp(microseconds), xid) == begin
    assert pgoutput.unpack_commit_end_lsn(COMMIT) == (commit.end_lsn,)
    assert (len(BEGIN), len(COMMIT)) == (pgoutput.BEGIN_LENGTH, pgoutput.COMMIT_LENGTH)


@pytest.mark.parametrize("payload", [RELATION, TYPE, INSERT, UPDATE, UPDATE_OF_KEY, DELETE_FULL])
def test_the_oid_stands_at_one_place_in_all_messages_that_have_one(payload: bytes) -> None:
    message = decode(payload)
    assert isinstance(message, Relation | Type | Insert | Update | Delete)

    (oid,) = pgoutput.unpack_oid(payload)

    assert oid == (message.oid if isinstance(message, Relation | Type) else message.relation_oid)


STANDALONE_MESSAGE = b"M\x00\x00\x00\x00\x00\x01\x6b\x37\x10p\x00\x00\x00\x00\x00"


def test_what_a_transaction_starts_and_ends_with() -> None:
    """Of all messages only a Commit and a Message outside of transactions reach a position."""
    payloads = [*PAYLOADS, STANDALONE_MESSAGE]

    assert {payload for payload in payloads if pgoutput.is_begin(payload)} == {BEGIN}
    assert {payload: pgoutput.started_lsn(payload) for payload in payloads} == {
        **dict.fromkeys(payloads),
        BEGIN: 0x16B3748,
    }
    assert {payload: pgoutput.completed_lsn(payload) for payload in payloads} == {
        **dict.fromkeys(payloads),
        COMMIT: Lsn.parse("1/16B3778"),
        STANDALONE_MESSAGE: 0x16B3710,
    }
    assert {payload: pgoutput.standalone_lsn(payload) for payload in payloads} == {
        **dict.fromkeys(payloads),
        STANDALONE_MESSAGE: 0x16B3710,
    }
    assert {payload for payload in payloads if payload.startswith(pgoutput.COMPLETING)} == {
        COMMIT,
        MESSAGE,
        STANDALONE_MESSAGE,
    }


def test_a_description_replaces_one_of_the_same_kind_and_oid() -> None:
    renamed = RELATION.replace(b"orders", b"bills")

    assert pgoutput.description_key(renamed) == pgoutput.description_key(RELATION)
    assert pgoutput.description_key(TYPE) not in (None, pgoutput.description_key(RELATION))
    assert pgoutput.description_key(b"Y" + RELATION[1:]) != pgoutput.description_key(RELATION)
    assert [pgoutput.description_key(payload) for payload in (BEGIN, COMMIT, INSERT, MESSAGE, b"")] == [
        None
    ] * 5


@pytest.mark.parametrize("payload", [COMMIT, STANDALONE_MESSAGE])
def test_no_position_is_read_from_a_message_that_is_cut_short(payload: bytes) -> None:
    """A position read past the fields would be acknowledged, and what is before it lost (promise 10)."""
    for length in range(1, len(payload)):
        with pytest.raises(DecodeError):
            pgoutput.completed_lsn(payload[:length])
    with pytest.raises(DecodeError):
        pgoutput.completed_lsn(payload + b"\x00")


def test_no_start_is_read_from_a_begin_that_is_cut_short() -> None:
    for length in range(1, len(BEGIN)):
        with pytest.raises(DecodeError):
            pgoutput.started_lsn(BEGIN[:length])


@given(st.sampled_from([b"", b"B", b"C", b"M", b"M\x01", b"R", b"Y"]), st.binary(max_size=40))
def test_any_bytes_have_a_position_or_none_or_are_an_error(start: bytes, rest: bytes) -> None:
    for function in (pgoutput.started_lsn, pgoutput.completed_lsn, pgoutput.standalone_lsn):
        with suppress(DecodeError):
            assert isinstance(function(start + rest), int | None)
