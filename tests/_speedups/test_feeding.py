"""The compiled part makes the same events of a stream as Python, and the same errors (promises 2, 4, 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import messages as m
from tests._speedups.support import ASSEMBLERS, answer, needs_compiled
from tests.pipeline import test_assembler as stream
from walex_celery import Filters
from walex_celery.events.cells import UNCHANGED
from walex_celery.pipeline import assembler as transaction
from walex_celery.pipeline.assembler import Assembler
from walex_celery.postgres.stream import StreamMessage, read_slice, read_slice_plainly

pytestmark = needs_compiled

SOME = Filters(unwatched_records={"id": 2}, unwatched_fields=("name",))


def outcome(
    make_assembler: Callable[..., Assembler], payloads: Iterable[bytes], filters: Filters | None = None
) -> list[Any]:
    """Everything observable that the assembler does with *payloads*."""
    handlers = stream.on("on_event", filters=filters), stream.on("on_message")
    listener = stream.Listener(*handlers, make_assembler=make_assembler)
    assembler = listener.assembler
    seen: list[Any] = []
    for payload in payloads:
        try:
            chunk = assembler.feed(payload)
        except Exception as error:
            seen.append((type(error).__name__, str(error)))
            break
        if chunk is not None:
            info = chunk.info
            if info.xid is None:  # a message outside of transactions has the time when it was read
                seen += [(info.lsn, routed.event.content) for routed in chunk.routed]
            else:
                seen.append((info, chunk.traceparent, chunk.context.position, chunk.context.last))
                seen += [
                    (event.to_json(), repr(event), event.index, len(route.handlers))
                    for event, route in chunk.routed
                ]
        seen.append((assembler.end_lsn, assembler.in_transaction, assembler._index, assembler._bytes))
    return seen


def assert_same(payloads: list[bytes], filters: Filters | None = None) -> list[Any]:
    compiled, plain = (outcome(make_assembler, payloads, filters) for make_assembler in ASSEMBLERS)
    assert compiled == plain
    return compiled


@pytest.mark.parametrize("filters", [None, SOME], ids=["all", "some"])
def test_the_same_of_a_whole_stream(filters: Filters | None) -> None:
    seen = assert_same(stream.STREAM, filters)

    assert any(isinstance(entry[0], bytes) for entry in seen), "events were compared"


def test_the_same_of_every_part_of_a_stream() -> None:
    for end in range(len(stream.STREAM)):
        for size in range(len(stream.STREAM[end])):
            assert_same([*stream.STREAM[:end], stream.STREAM[end][:size]])


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(stream.STREAM)), max_size=12),
    st.sampled_from([None, SOME]),
)
def test_the_same_of_messages_in_any_order(payloads: list[bytes], filters: Filters | None) -> None:
    assert_same([m.begin(), stream.USERS_RELATION, stream.ORDERS_RELATION, *payloads, m.commit()], filters)


@given(
    at=st.integers(0, len(stream.STREAM) - 1),
    offset=st.integers(0, 200),
    byte=st.integers(0, 255),
    insert=st.booleans(),
)
def test_the_same_of_a_damaged_stream(at: int, offset: int, byte: int, insert: bool) -> None:
    payload = bytearray(stream.STREAM[at])
    offset %= len(payload) + 1
    payload[offset : offset + (not insert)] = bytes([byte])

    assert_same([*stream.STREAM[:at], bytes(payload), *stream.STREAM[at + 1 :]])


def test_the_same_chunks_of_a_large_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "CHUNK_EVENTS", 3)
    payloads = [m.begin(), stream.USERS_RELATION]
    payloads += [m.insert(stream.USERS, b"%d" % number, b"a") for number in range(8)]

    seen = assert_same([*payloads, m.commit()])

    assert [entry[0].chunk for entry in seen if hasattr(entry[0], "chunk")] == [0, 1, 2]


# Reading.

MESSAGES = st.lists(
    st.tuples(
        st.sampled_from([b"B", b"C", b"M", b"I" * 30, b""]) | st.binary(max_size=5), st.integers(0, 2**64 - 1)
    ),
    max_size=20,
)


@given(
    messages=MESSAGES,
    count=st.integers(0, 25),
    limit=st.integers(0, 100),
    pending=st.booleans(),
    explicit=st.integers(0, 2**64 - 1),
    stop=st.booleans(),
    bare=st.booleans(),
)
def test_the_same_slice_is_read(
    messages: list[tuple[bytes, int]],
    count: int,
    limit: int,
    pending: bool,
    explicit: int,
    stop: bool,
    bare: bool,
) -> None:
    def read(half: Any) -> Any:
        waiting = iter([SimpleNamespace(payload=payload, data_start=start) for payload, start in messages])
        return half(
            lambda: next(waiting, None),
            None if bare else StreamMessage,
            count,
            limit,
            pending,
            explicit,
            stop,
        )

    compiled = read(read_slice)

    assert tuple(compiled) == read(read_slice_plainly)
    assert all(type(message) is (bytes if bare else StreamMessage) for message in compiled[0])


# Rows.

_ROW = st.lists(
    st.none() | st.binary(max_size=12) | st.text(max_size=6).map(str.encode), min_size=2, max_size=2
)


@given(
    kind=st.sampled_from(["insert", "update", "delete"]), new=_ROW, old=st.none() | _ROW, toast=st.booleans()
)
def test_the_same_of_any_row_of_a_stream(
    kind: str, new: list[bytes | None], old: list[bytes | None] | None, toast: bool
) -> None:
    """Whether its values are looked at before it becomes JSON, after, or not at all."""
    if kind == "insert":
        payload = m.insert(stream.USERS, *new)
    elif kind == "delete":
        payload = m.delete(stream.USERS, old=new)
    else:
        payload = m.update(stream.USERS, [new[0], UNCHANGED] if toast else new, old=old)
    payloads = [m.begin(), stream.USERS_RELATION, payload, m.commit()]

    for filters in (None, SOME):
        assert_same(payloads, filters)
    events = [
        event
        for make_assembler in ASSEMBLERS
        for event in stream.Listener(stream.on("on_event"), make_assembler=make_assembler).events(
            *payloads[1:-1]
        )
    ]
    before = [event.to_json() for event in events]
    assert before[0] == before[1]
    records = [
        answer(lambda event=event: (event.new_record, event.old_record, event.changes)) for event in events
    ]
    assert records[0] == records[1]
    assert [event.to_json() for event in events] == before
