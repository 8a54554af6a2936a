"""From messages to events: order, chunks, and what each kind of tuple tells (promises 2, 4, 7, 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import messages as m
from walex_celery import DecodeError, Event, Filters, Lsn
from walex_celery.events.cells import UNCHANGED
from walex_celery.events.event import Source
from walex_celery.events.shape import Shape
from walex_celery.filters import Table
from walex_celery.handlers.kinds import OF_TABLES
from walex_celery.handlers.registry import Handler
from walex_celery.handlers.routes import message_route, route_of
from walex_celery.pipeline import assembler as transaction
from walex_celery.pipeline.assembler import Chunk, new_assembler
from walex_celery.pipeline.table_plan import Planning, TablePlan
from walex_celery.postgres.pgoutput import Relation, Type

USERS, ORDERS, AUDIT = 1, 2, 3
TYPES = {m.INT4: "integer", m.TEXT: "text", m.JSONB: "jsonb", m.BOOL: "bool"}
USERS_RELATION = m.relation(USERS, "users", [("id", m.INT4), ("name", m.TEXT)])
ORDERS_RELATION = m.relation(ORDERS, "orders", [("id", m.INT4)], schema="sales", identity="d", key=["id"])


class Listener:
    """An assembler, and the handlers that it serves."""

    def __init__(
        self,
        *handlers: Handler,
        restartable: bool = False,
        make_assembler: Callable[..., transaction.Assembler] = new_assembler,
    ) -> None:
        self.handlers = list(handlers)
        self.types: list[Type] = []
        planning = Planning(
            self.plan,
            lambda prefix: message_route(self.handlers, prefix),
            Source("WalEx", "1", "shop", "", "", {}),
            self.types.append,
        )
        self.assembler = make_assembler(planning, restartable=restartable)

    def plan(self, relation: Relation) -> TablePlan | None:
        table = Table(relation.namespace, relation.name)
        if not any(handler.wants(table, type) for handler in self.handlers for type in OF_TABLES):
            return None
        columns = {column.name: TYPES.get(column.type_oid, "text") for column in relation.columns}
        key = ("id",) if "id" in columns else ()
        shape = Shape(columns, {})
        source = Source("WalEx", "1", "shop", relation.namespace, relation.name, columns, key)
        return TablePlan(
            source, shape, {type: route_of(self.handlers, table, type, shape) for type in OF_TABLES}
        )

    def feed(self, *payloads: bytes) -> list[Chunk]:
        fed = [self.assembler.feed(payload) for payload in payloads]
        return [chunk for chunk in fed if chunk is not None]

    def events(self, *payloads: bytes) -> list[Event]:
        """The events of one transaction of *payloads*."""
        chunks = self.feed(m.begin(), *payloads, m.commit())
        return [routed.event for chunk in chunks for routed in chunk.routed]


def on(
    kind: str, table: str | None = None, *, filters: Filters | None = None, prefix: str | None = None
) -> Handler:
    named = None if table is None else Table("public", table)
    return Handler(kind, named, prefix, filters or Filters(), (), lambda events: None, __name__)


def row(record: object) -> dict[str, object]:
    assert record is not None
    return dict(record)  # type: ignore[call-overload, no-any-return]


def places(chunks: Iterable[Chunk]) -> list[tuple[int, bool, int]]:
    return [(chunk.info.chunk, chunk.info.last, len(chunk.routed)) for chunk in chunks]


# Events.


def test_an_insert_tells_all_that_the_stream_tells() -> None:
    listener = Listener(on("on_event"))

    (event,) = listener.events(USERS_RELATION, m.insert(USERS, b"1", None))

    assert (event.type, event.name, event.index, event.xid) == ("insert", "users", 0, 742)
    assert (event.lsn, event.timestamp) == (Lsn(m.COMMIT_LSN), datetime(2000, 1, 1, tzinfo=UTC))
    assert row(event.new_record) == {"id": 1, "name": None}
    assert event.old_record is event.changes is event.old_key is None
    assert event.key == {"id": 1}
    assert repr(event) == "<Event insert users id=1 lsn=0/16B3748>"


def test_an_update_with_the_old_row_tells_what_changed() -> None:
    """Replica identity FULL: an O tuple."""
    listener = Listener(on("on_event"))

    (event,) = listener.events(USERS_RELATION, m.update(USERS, [b"1", b"b"], old=[b"1", b"a"]))

    assert row(event.new_record) == {"id": 1, "name": "b"}
    assert event.changes == {"name": ("b", "a")}
    assert event.changes["name"].new_value == "b"
    assert event.old_record is None
    assert event.old_key is None


def test_an_update_without_the_old_row_does_not_know_what_changed() -> None:
    listener = Listener(on("on_event"))

    (event,) = listener.events(USERS_RELATION, m.update(USERS, [b"1", b"b"]))

    assert event.changes is None


def test_an_update_of_the_key_tells_the_old_key_and_no_more() -> None:
    """A K tuple has nulls where it knows nothing: they are no old values (promise 7)."""
    listener = Listener(on("on_event"))

    (event,) = listener.events(USERS_RELATION, m.update(USERS, [b"2", b"b"], key=[b"1", None]))

    assert event.changes is None
    assert row(event.old_key) == {"id": 1}


def test_an_unchanged_toast_value_is_taken_from_the_old_row() -> None:
    listener = Listener(on("on_event"))

    (event,) = listener.events(USERS_RELATION, m.update(USERS, [b"2", UNCHANGED], old=[b"1", b"long"]))

    assert row(event.new_record) == {"id": 2, "name": "long"}
    assert event.changes == {"id": (2, 1)}


@pytest.mark.parametrize("key", [None, [b"1", None]], ids=["no old tuple", "K tuple"])
def test_an_unchanged_toast_value_that_nothing_tells_is_absent_never_none(
    key: list[bytes | None] | None,
) -> None:
    """Promise 7."""
    listener = Listener(on("on_event"))

    (event,) = listener.events(USERS_RELATION, m.update(USERS, [b"2", UNCHANGED], key=key))

    assert row(event.new_record) == {"id": 2}
    assert "name" not in row(event.new_record)


def test_a_delete_with_the_whole_old_row() -> None:
    listener = Listener(on("on_event"))

    (event,) = listener.events(USERS_RELATION, m.delete(USERS, old=[b"1", None]))

    assert row(event.old_record) == {"id": 1, "name": None}
    assert event.new_record is event.changes is None


def test_a_delete_with_the_key_only_has_no_other_columns() -> None:
    listener = Listener(on("on_event"))

    (event,) = listener.events(USERS_RELATION, m.delete(USERS, key=[b"1", None]))

    assert row(event.old_record) == {"id": 1}


def test_a_truncate_is_an_event_of_each_table() -> None:
    listener = Listener(on("on_truncate"))

    users, orders = listener.events(USERS_RELATION, ORDERS_RELATION, m.truncate(USERS, ORDERS, options=3))

    assert (users.name, users.index, orders.name, orders.index) == ("users", 0, "orders", 1)
    assert (orders.source.schema, orders.cascade, orders.restart_identity) == ("sales", True, True)
    assert users.new_record is users.old_record is users.changes is users.key is None


def test_a_transactional_message_is_an_event_in_its_place() -> None:
    listener = Listener(on("on_insert"), on("on_message", prefix="audit"))

    insert, message = listener.events(
        USERS_RELATION, m.insert(USERS, b"1", None), m.message("other", b""), m.message("audit", b"\xff\0")
    )

    assert (insert.index, message.index) == (0, 2)
    assert (message.name, message.content, message.transactional) == ("audit", b"\xff\0", True)
    assert (message.lsn, message.xid) == (Lsn(m.COMMIT_LSN), 742)


def test_a_message_outside_of_transactions_comes_at_once() -> None:
    listener = Listener(on("on_message"))

    (chunk,) = listener.feed(m.message("audit", b"seen", transactional=False, lsn=0x16B3900))

    event = chunk.routed[0].event
    assert (event.content, event.transactional, event.xid, event.lsn) == (b"seen", False, None, 0x16B3900)
    assert chunk.info.last
    assert listener.assembler.end_lsn == 0x16B3900


def test_a_message_outside_of_transactions_has_no_event_s_place() -> None:
    """Its LSN may be that of the next transaction: their tasks must not share ids (promise 3)."""
    listener = Listener(on("on_event"), on("on_message"))
    outside = m.message("audit", b"", transactional=False, lsn=m.COMMIT_LSN)
    (chunk,) = listener.feed(outside)

    (insert,) = listener.events(USERS_RELATION, m.insert(USERS, b"1", None))

    message = chunk.routed[0].event
    assert message.lsn == insert.lsn
    assert message.index != insert.index


# Order and place.


def test_the_index_counts_every_change_of_the_transaction() -> None:
    """Subscribed or not, filtered or not: a handler that comes later does not change ids (promise 3)."""
    quiet = Filters(unwatched_records={"name": "quiet"})
    listener = Listener(on("on_event", "users", filters=quiet), on("on_message", prefix="audit"))

    events = listener.events(
        USERS_RELATION,
        ORDERS_RELATION,
        m.insert(USERS, b"1", b"a"),  # 0
        m.insert(ORDERS, b"1"),  # 1, not subscribed
        m.insert(USERS, b"2", b"quiet"),  # 2, filtered
        m.message("other", b""),  # 3, not subscribed
        m.truncate(ORDERS, USERS),  # 4 and 5
        m.delete(ORDERS, key=[b"1"]),  # 6
        m.update(USERS, [b"1", b"b"]),  # 7
        m.message("audit", b""),  # 8
    )

    assert [(event.type, event.index) for event in events] == [
        ("insert", 0),
        ("truncate", 5),
        ("update", 7),
        ("message", 8),
    ]


def test_the_index_begins_at_0_in_each_transaction() -> None:
    listener = Listener(on("on_event"))
    listener.events(USERS_RELATION, m.insert(USERS, b"1", None))

    (event,) = listener.events(m.insert(USERS, b"2", None))

    assert event.index == 0


def test_an_event_knows_the_handlers_that_want_it_in_the_order_registered() -> None:
    first, second = on("on_event", filters=Filters(unwatched_records={"id": 2})), on("on_insert", "users")
    listener = Listener(first, second)

    (chunk,) = listener.feed(
        m.begin(), USERS_RELATION, m.insert(USERS, b"1", None), m.insert(USERS, b"2", None), m.commit()
    )

    assert [routed.route.handlers for routed in chunk.routed] == [(first, second), (second,)]


def test_a_transaction_of_nothing_wanted_is_no_chunk_but_moves_the_position() -> None:
    listener = Listener(on("on_delete"))

    assert listener.feed(m.begin(), USERS_RELATION, m.insert(USERS, b"1", None)) == []
    assert listener.assembler.in_transaction
    assert listener.assembler.end_lsn == 0
    assert listener.feed(m.commit()) == []
    assert not listener.assembler.in_transaction
    assert listener.assembler.end_lsn == m.END_LSN


def test_types_are_announced() -> None:
    listener = Listener(on("on_event"))

    listener.feed(m.begin(), b"Y\x00\x00\x40\x0apublic\x00mood\x00", m.commit())

    assert listener.types == [Type(16394, "public", "mood")]


def test_a_relation_that_changed_holds_from_there_on() -> None:
    listener = Listener(on("on_event"))
    wider = m.relation(USERS, "people", [("id", m.INT4), ("name", m.TEXT), ("admin", m.BOOL)])

    before, after = listener.events(
        USERS_RELATION, m.insert(USERS, b"1", b"a"), wider, m.insert(USERS, b"2", b"b", b"t")
    )

    assert (before.name, row(before.new_record)) == ("users", {"id": 1, "name": "a"})
    assert (after.name, row(after.new_record)) == ("people", {"id": 2, "name": "b", "admin": True})


def test_replan_asks_again_for_what_is_known() -> None:
    listener = Listener()
    assert listener.events(USERS_RELATION, m.insert(USERS, b"1", None)) == []

    listener.handlers.append(on("on_insert", "users"))
    listener.assembler.replan()

    assert len(listener.events(m.insert(USERS, b"2", None))) == 1


# Chunks (promise 4).


@pytest.fixture
def _three_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "CHUNK_EVENTS", 3)


@pytest.mark.usefixtures("_three_a_chunk")
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, [(0, True, 1)]),
        (3, [(0, True, 3)]),
        (4, [(0, False, 3), (1, True, 1)]),
        (6, [(0, False, 3), (1, True, 3)]),
        (7, [(0, False, 3), (1, False, 3), (2, True, 1)]),
    ],
)
def test_a_large_transaction_comes_in_chunks_of_which_the_last_says_so(
    rows: int, expected: list[tuple[int, bool, int]]
) -> None:
    listener = Listener(on("on_event"))
    inserts = [m.insert(USERS, b"%d" % number, None) for number in range(rows)]

    chunks = listener.feed(m.begin(), USERS_RELATION, *inserts, m.commit())

    assert places(chunks) == expected
    events = [routed.event for chunk in chunks for routed in chunk.routed]
    assert [event.index for event in events] == list(range(rows))
    assert [event.transaction.chunk for event in events] == [number // 3 for number in range(rows)]


@pytest.mark.usefixtures("_three_a_chunk")
@pytest.mark.parametrize(
    "after",
    [
        m.truncate(ORDERS),
        m.insert(ORDERS, b"1"),
        m.message("other", b""),
        m.delete(USERS, old=[b"1", b"quiet"]),
    ],
    ids=["truncate", "insert", "message", "filtered"],
)
def test_what_is_not_subscribed_does_not_end_a_chunk(after: bytes) -> None:
    """Else the last chunk with events would not have said that it is the last."""
    quiet = Filters(unwatched_records={"name": "quiet"})
    listener = Listener(on("on_event", "users", filters=quiet))
    inserts = [m.insert(USERS, b"1", None)] * 3

    chunks = listener.feed(m.begin(), USERS_RELATION, ORDERS_RELATION, *inserts, after, m.commit())

    assert places(chunks) == [(0, True, 3)]


@pytest.mark.usefixtures("_three_a_chunk")
def test_a_truncate_of_many_tables_comes_whole() -> None:
    listener = Listener(on("on_event"))

    chunks = listener.feed(
        m.begin(),
        USERS_RELATION,
        ORDERS_RELATION,
        *[m.insert(USERS, b"1", None)] * 2,
        m.truncate(USERS, ORDERS, USERS, ORDERS),
        m.commit(),
    )

    assert [len(chunk.routed) for chunk in chunks] == [3, 3]
    assert [chunk.info.last for chunk in chunks] == [False, True]
    assert [routed.event.index for chunk in chunks for routed in chunk.routed] == [0, 1, 2, 3, 4, 5]


def test_a_chunk_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "CHUNK_BYTES", 10_000)
    listener = Listener(on("on_event"))
    inserts = [m.insert(USERS, b"1", b"x" * size) for size in (4_000, 4_000, 4_000, 20_000, 10)]

    chunks = listener.feed(m.begin(), USERS_RELATION, *inserts, m.commit())

    assert [len(chunk.routed) for chunk in chunks] == [2, 1, 1, 1]
    assert [chunk.info.last for chunk in chunks] == [False, False, False, True]


@pytest.mark.usefixtures("_three_a_chunk")
def test_the_chunks_of_the_next_transaction_count_from_0() -> None:
    listener = Listener(on("on_event"))
    inserts = [m.insert(USERS, b"1", None)] * 4
    listener.feed(m.begin(), USERS_RELATION, *inserts, m.commit())

    chunks = listener.feed(m.begin(), *inserts, m.commit())

    assert places(chunks) == [(0, False, 3), (1, True, 1)]


@pytest.mark.usefixtures("_three_a_chunk")
def test_a_restarted_transaction_begins_again() -> None:
    """A middleware hands on what a broken connection brought, and then the same from its Begin."""
    listener = Listener(on("on_event"), restartable=True)
    inserts = [m.insert(USERS, b"%d" % number, None) for number in range(5)]
    half = listener.feed(m.begin(), USERS_RELATION, *inserts[:4])

    whole = listener.feed(m.begin(), USERS_RELATION, *inserts, m.commit())

    assert places(half) == [(0, False, 3)]
    assert places(whole) == [(0, False, 3), (1, True, 2)]
    assert [routed.event.index for chunk in whole for routed in chunk.routed] == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("_three_a_chunk")
def test_what_is_taken_back_is_the_transaction_of_what_was_handed_on_last() -> None:
    """Promise 1, and what came before it need not come again."""
    listener = Listener(on("on_event"), on("on_message"))
    assembler = listener.assembler
    row = m.insert(USERS, b"1", None)

    listener.feed(m.begin(), USERS_RELATION, row, m.commit(end_lsn=100))
    listener.feed(m.begin(), row, m.commit(end_lsn=200))
    assembler.take_back()
    assert assembler.end_lsn == 100

    listener.feed(m.begin(), row, m.commit(end_lsn=200))
    (chunk,) = listener.feed(m.begin(), *[row] * 4)
    assert not chunk.info.last
    assembler.take_back()
    assert assembler.end_lsn == 200, "of a part"

    (chunk,) = listener.feed(m.commit(end_lsn=300))
    assert chunk.info.last
    assembler.take_back()
    assert assembler.end_lsn == 200, "of the last part"

    listener.feed(m.begin(), row, m.commit(end_lsn=300))
    listener.feed(m.message("audit", b"", transactional=False, lsn=400))
    assert assembler.end_lsn == 400
    assembler.take_back()
    assert assembler.end_lsn == 300, "of a message outside of transactions"


def test_an_update_of_which_a_part_of_the_old_row_is_known_is_not_dropped() -> None:
    """Its ``changes`` are unknown: what a K tuple leaves out may have changed."""
    listener = Listener(on("on_event", filters=Filters(unwatched_fields=("name",))))

    (event,) = listener.events(USERS_RELATION, m.update(USERS, [b"1", b"b"], key=[b"1", None]))

    assert event.changes is None


# What can't be (promise 10).


WRONG = {
    "a Begin inside a transaction": ([m.begin(), m.begin()], "Begin inside"),
    "a Commit outside": ([m.commit()], "Commit outside"),
    "a row outside": ([USERS_RELATION, m.insert(USERS, b"1", None)], "outside a transaction"),
    "a row without subscribers outside": ([m.insert(ORDERS, b"1")], "outside a transaction"),
    "a TRUNCATE outside": ([USERS_RELATION, m.truncate(USERS)], "outside a transaction"),
    "a transactional message outside": ([m.message("audit", b"")], "outside a transaction"),
    "a message without a transaction inside one": (
        [m.begin(), m.message("audit", b"", transactional=False)],
        "inside a transaction",
    ),
    "a row of an unknown relation": ([m.begin(), m.insert(9, b"1")], "relation 9"),
    "a TRUNCATE of an unknown relation": ([m.begin(), m.truncate(9)], "relation 9"),
    "a row too short": ([m.begin(), USERS_RELATION, m.insert(USERS, b"1")], "2 columns"),
    "a row too long": ([m.begin(), USERS_RELATION, m.insert(USERS, b"1", None, None)], "2 columns"),
    "an old row too short": (
        [m.begin(), USERS_RELATION, m.update(USERS, [b"1", b"a"], old=[b"1"])],
        "old row of 1 columns",
    ),
    "a new row too long beside UNCHANGED": (
        [m.begin(), USERS_RELATION, m.update(USERS, [b"1", UNCHANGED, b"x"], old=[b"1", b"a"])],
        "new one of 3",
    ),
    "an old key too long": (
        [m.begin(), USERS_RELATION, m.update(USERS, [b"1", b"a"], key=[b"1", None, None])],
        "old row of 3",
    ),
    "a deleted row too short": ([m.begin(), USERS_RELATION, m.delete(USERS, old=[b"1"])], "2 columns"),
    "a deleted key too long": (
        [m.begin(), USERS_RELATION, m.delete(USERS, key=[b"1", None, None])],
        "2 columns",
    ),
    "a message of protocol 2": ([b"S\x00\x00\x02\xe6\x01"], "unknown message type"),
    "nothing": ([b""], "empty"),
}


@pytest.mark.parametrize(("payloads", "complaint"), WRONG.values(), ids=WRONG.keys())
def test_a_message_that_can_not_stand_there_is_an_error(payloads: list[bytes], complaint: str) -> None:
    listener = Listener(on("on_event"), on("on_message", prefix="audit"))

    with pytest.raises(DecodeError, match=complaint):
        listener.feed(*payloads)


STREAM = [
    m.begin(),
    b"O\x00\x00\x00\x00\x01\x6b\x37\x48far away\x00",
    b"Y\x00\x00\x40\x0apublic\x00mood\x00",
    USERS_RELATION,
    ORDERS_RELATION,
    m.insert(USERS, b"1", "é".encode()),
    m.update(USERS, [b"1", UNCHANGED], old=[b"1", b"a"]),
    m.update(USERS, [b"2", UNCHANGED], key=[b"1", None]),
    m.update(ORDERS, [b"2"]),
    m.delete(USERS, old=[b"1", b"b"]),
    m.delete(ORDERS, key=[b"1"]),
    m.truncate(USERS, ORDERS, options=1),
    m.message("audit", b"content"),
    m.commit(),
    m.message("audit", b"content", transactional=False),
]


def test_every_truncation_in_a_stream_is_an_error_or_was_not_looked_at() -> None:
    """A row that is not subscribed to is dropped after its relation's id; everything else is read whole."""
    for number, payload in enumerate(STREAM):
        for length in range(len(payload)):
            listener = Listener(on("on_event"), on("on_message"))
            listener.feed(*STREAM[:number])
            with pytest.raises(DecodeError):
                listener.feed(payload[:length])


@given(
    number=st.integers(0, len(STREAM) - 1),
    damage=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=3),
    cut=st.integers(0, 4),
)
def test_a_damaged_stream_gives_events_or_an_error(
    number: int, damage: list[tuple[int, int]], cut: int
) -> None:
    payloads = list(STREAM)
    damaged = bytearray(payloads[number])
    for place, value in damage:
        damaged[place % len(damaged)] = value
    payloads[number] = bytes(damaged[: len(damaged) - cut])
    listener = Listener(on("on_event"), on("on_message"))

    with suppress(DecodeError):
        for chunk in listener.feed(*payloads):
            for event in (routed.event for routed in chunk.routed):
                again = Event.from_json(event.to_json())
                assert (repr(again), again.changes) == (repr(event), event.changes)


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(STREAM)), max_size=12))
def test_messages_in_any_order_give_events_or_an_error(payloads: list[bytes]) -> None:
    listener = Listener(on("on_event"), on("on_message"))

    with suppress(DecodeError):
        listener.feed(*payloads)
