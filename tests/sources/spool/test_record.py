"""Records and what they are made of: whatever happens to their bytes, it is noticed (promises 1 and 10)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import messages as m
from tests.sources.spool.support import of, transaction
from walex_celery import StreamMessage
from walex_celery.sources.spool.record import (
    DESCRIBES,
    WHOLE,
    BadRecord,
    Described,
    Header,
    encode_header,
    encode_messages,
    parse,
    whole_part,
)

some_messages = st.lists(
    st.builds(StreamMessage, st.binary(max_size=50), st.integers(0, 2**64 - 1)), max_size=10
)


def encoded(messages: list[StreamMessage], end_lsn: int | None = None) -> bytes:
    return b"".join(encode_messages(messages, end_lsn))


@given(some_messages, st.none() | st.integers(1, 2**64 - 1), st.binary(max_size=20), st.binary(max_size=20))
def test_what_goes_in_comes_out(
    messages: list[StreamMessage], end_lsn: int | None, before: bytes, after: bytes
) -> None:
    data = encoded(messages, end_lsn)

    record = parse(before + data + after, len(before))

    assert record.messages() == messages
    assert (bool(record.flags & WHOLE), record.end_lsn) == (end_lsn is not None, end_lsn or 0)
    assert record.size == len(data)


@given(some_messages, st.data())
def test_one_byte_that_is_another_is_noticed(messages: list[StreamMessage], data: st.DataObject) -> None:
    good = encoded(messages, 100)
    at = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.integers(1, 255))
    bad = good[:at] + bytes([good[at] ^ other]) + good[at + 1 :]

    with pytest.raises(BadRecord):
        parse(bad, 0)


def test_a_record_that_is_cut_anywhere_is_noticed() -> None:
    good = encoded(transaction(100))

    for size in range(len(good)):
        with pytest.raises(BadRecord):
            parse(good[:size], 0)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_record_or_a_bad_one(data: bytes) -> None:
    with suppress(BadRecord):
        parse(data, 0)


def test_zeros_are_no_record() -> None:
    """What a file system may leave of a file that was growing when the power went."""
    with pytest.raises(BadRecord):
        parse(bytes(1000), 0)


def test_a_header_says_whose_it_is() -> None:
    header = Header(7, 2, "shop_walex", 3, 100, True, of(m.relation(1, "users", [("id", m.INT4)])))

    assert parse(encode_header(header), 0).header() == header
    with pytest.raises(BadRecord, match="no header"):
        parse(encoded([]), 0).header()


def test_a_record_tells_whether_it_describes_tables() -> None:
    plain = parse(encoded(transaction(100)), 0)
    describing = parse(encoded(transaction(100, describes=m.relation(1, "users", []))), 0)

    assert (plain.flags & DESCRIBES, describing.flags & DESCRIBES) == (0, DESCRIBES)


def test_the_whole_part_ends_with_the_last_commit() -> None:
    two, open_one = transaction(100) + transaction(200), transaction(300)[:-1]

    assert whole_part(two) == (6, 200)
    assert whole_part(two + open_one) == (6, 200)
    assert whole_part(open_one) == (0, 0)
    assert whole_part([]) == (0, 0)


def test_a_message_outside_of_transactions_is_whole() -> None:
    alone = of(m.message("audit", b"", transactional=False, lsn=150))
    inside = of(m.message("audit", b"", transactional=True, lsn=150))

    assert whole_part(alone) == (1, 150)
    assert whole_part(inside) == (0, 0)


def test_what_is_described_last_counts_and_types_come_first() -> None:
    old, new, other = (
        m.relation(1, "users", []),
        m.relation(1, "people", []),
        m.relation(2, "orders", []),
    )
    kind = b"Y" + (99).to_bytes(4, "big") + b"public\0mood\0"

    described = Described(of(old, other))
    described.note(of(new, kind, m.insert(1, b"1")))

    assert [message.payload for message in described.messages()] == [kind, other, new]
