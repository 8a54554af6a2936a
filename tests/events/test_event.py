"""An event over the wire: what a worker gets is what the producer had (promises 7 and 10)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import dumps, loads

from tests import messages as m
from walex_celery import Change, DecodeError, Event, Lsn, TransactionInfo
from walex_celery.events.cells import UNCHANGED, Cell
from walex_celery.events.event import Source, printable, short
from walex_celery.events.row_event import (
    Context,
    PlainEvent,
    RowEvent,
    RowSource,
    new_context,
    new_row_event,
)
from walex_celery.events.shape import Shape
from walex_celery.events.values import Numbers, TypeDefinition
from walex_celery.events.wire import WireEvent
from walex_celery.postgres.pgoutput import POSTGRES_EPOCH

COLUMNS = {
    "id": "integer",
    "name": "text",
    "active": "bool",
    "price": "numeric",
    "at": "timestamptz",
    "data": "jsonb",
    "raw": "json",
    "mood": "shop.mood",
}
TYPES = {"shop.mood": TypeDefinition("enum")}
INFO = TransactionInfo(742, Lsn(m.COMMIT_LSN), datetime(2020, 1, 2, 3, 4, 5, 678900, UTC), 3, False)


def context(info: TransactionInfo = INFO) -> Context:
    made = new_context()
    microseconds = (info.timestamp - POSTGRES_EPOCH) // timedelta(microseconds=1)
    made.complete(info.lsn, microseconds, info.xid, info.chunk, info.last)
    return made


def row_event(
    type: Any,
    new: Mapping[str, Cell] | None = None,
    old: Mapping[str, Cell] | None = None,
    *,
    old_is_whole: bool = True,
    columns: Mapping[str, str] = COLUMNS,
    key: tuple[str, ...] = ("id",),
    table: str = "users",
    schema: str = "public",
    numbers: Numbers = "auto",
) -> RowEvent:
    """An event of a row; columns that are not given are NULL."""
    source = Source("WalEx", "1.0", "shop", schema, table, dict(columns), key, TYPES, numbers)
    row_source = RowSource(source, Shape(columns, TYPES, numbers))

    def cells(row: Mapping[str, Cell] | None) -> list[Cell] | None:
        return None if row is None else [row.get(name) for name in columns]

    return new_row_event(row_source, type, context(), 5, cells(new), cells(old), old_is_whole)


def plain_event(type: Any, **options: Any) -> PlainEvent:
    named = ("", "") if type == "message" else ("sales", "orders")
    source = Source("WalEx", "1.0", "shop", *named, {})
    return PlainEvent(type, source, context(), 5, **options)


def sent(event: Event) -> Event:
    """*event* as a worker gets it: through kombu's JSON, as an argument of a task."""
    (arguments, _, _) = loads(dumps([[event], {}, {"callbacks": None}]))
    (received,) = arguments
    assert isinstance(received, Event)
    assert type(received) is not type(event)
    return received


def assert_same(received: Event, event: Event) -> None:
    for attribute in (
        "type", "name", "source", "transaction", "index", "lsn", "xid", "timestamp", "new_record", "old_record",
        "changes", "old_key", "key", "content", "transactional", "cascade", "restart_identity",
    ):  # fmt: skip
        assert getattr(received, attribute) == getattr(event, attribute), attribute
    assert repr(received) == repr(event)
    assert received == event
    assert hash(received) == hash(event)


def one_column(type_name: str, cell: bytes) -> tuple[Any, Any]:
    """The value of a cell in the producer, and in a worker."""
    event = row_event("insert", {"value": cell}, columns={"value": type_name}, key=())
    received = sent(event)
    assert event.new_record is not None
    assert received.new_record is not None
    return event.new_record["value"], received.new_record["value"]


ROW: dict[str, Cell] = {
    "id": b"42",
    "name": 'Zoë "Z" \\ \n\t'.encode(),
    "active": b"t",
    "price": b"12345678901234567890.10",
    "at": b"2020-01-02 03:04:05+00",
    "data": b'{"a": [1, 2.5, null], "\xc3\xa9": "x"}',
    "raw": b'{ "a" : 1,\n "a" : 2 }',
    "mood": b"happy",
}
VALUES = {
    "id": 42,
    "name": 'Zoë "Z" \\ \n\t',
    "active": True,
    "price": Decimal("12345678901234567890.10"),
    "at": datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC),
    "data": {"a": [1, 2.5, None], "é": "x"},
    "raw": {"a": 2},
    "mood": "happy",
}
EVENTS = {
    "insert": row_event("insert", ROW),
    "insert of nulls": row_event("insert", {}),
    "insert with an absent value": row_event("insert", {**ROW, "name": UNCHANGED}),
    "update, old row unknown": row_event("update", ROW),
    "update, old row known": row_event("update", ROW, {**ROW, "id": b"41", "active": None}),
    "update of nothing": row_event("update", ROW, ROW),
    "update of the key": row_event("update", ROW, {"id": b"41"}, old_is_whole=False),
    "delete": row_event("delete", None, ROW),
    "delete of a key": row_event(
        "delete", None, {**dict.fromkeys(COLUMNS, UNCHANGED), "id": b"42"}, old_is_whole=False
    ),
    "of a table without key": row_event("insert", ROW, key=()),
    "in a schema": row_event("insert", ROW, schema="sales", table="orders"),
    "truncate": plain_event("truncate"),
    "truncate with options": plain_event("truncate", cascade=True, restart_identity=True),
    "message": plain_event("message", prefix="audit", content="text é".encode()),
    "message of any bytes": plain_event("message", prefix='odd "\n', content=bytes(range(256))),
    "empty message": plain_event("message", prefix="", content=b""),
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS.keys())
def test_a_worker_gets_what_the_producer_had(event: Event) -> None:
    assert_same(sent(event), event)


def test_values_are_typed_in_a_worker_as_in_the_producer() -> None:
    event = EVENTS["insert"]

    assert event.new_record == VALUES
    assert sent(event).new_record == VALUES


NUMBERS = b'{"a": 1, "b": 0.1, "c": [1.50, 1e2, 12345678901234567890.5], "d": 7.0}'
NUMBERS_READ: dict[Numbers, str] = {
    "auto": "{'a': 1, 'b': 0.1, 'c': [1.5, 100.0, Decimal('12345678901234567890.5')], 'd': 7.0}",
    "decimal": (
        "{'a': 1, 'b': Decimal('0.1'), 'c': [Decimal('1.50'), Decimal('1E+2'), Decimal('12345678901234567890.5')], "
        "'d': Decimal('7.0')}"
    ),
}


@pytest.mark.parametrize(("numbers", "read"), NUMBERS_READ.items())
def test_the_numbers_of_documents_are_alike_in_producer_and_worker(numbers: Numbers, read: str) -> None:
    """The worker goes by what came with the event: it has no settings."""
    columns = {"value": "jsonb", "many": "json[]"}
    row: dict[str, Cell] = {"value": NUMBERS, "many": b"{0.5,1}"}
    half = "0.5" if numbers == "auto" else "Decimal('0.5')"
    whole = f"{{'value': {read}, 'many': [{half}, 1]}}"
    old = {**row, "value": b"0.5"}
    update = row_event("update", row, old, columns=columns, key=("value",), numbers=numbers)
    delete = row_event("delete", None, row, columns=columns, key=("value",), numbers=numbers)

    for event in (update, sent(update)):
        assert event.source.numbers == numbers
        assert repr(event.new_record) == whole
        assert repr(event.changes) == f"{{'value': Change(new_value={read}, old_value={half})}}"
        assert repr(event.old_key) == f"{{'value': {half}}}"
    for event in (delete, sent(delete)):
        assert repr(event.old_record) == whole
        assert repr(event.key) == f"{{'value': {read}}}"


def test_the_default_adds_nothing_to_the_wire() -> None:
    assert b"numbers" not in row_event("insert", ROW).to_json()
    assert b'"numbers":"decimal"' in row_event("insert", ROW, numbers="decimal").to_json()


def test_a_kind_of_numbers_that_this_version_does_not_know_is_an_error() -> None:
    """Promise 10: a value of a type that the sender did not mean would be wrong."""
    text = row_event("insert", ROW, numbers="decimal").to_json().replace(b'"decimal"', b'"fraction"')
    with pytest.raises(DecodeError, match="numbers"):
        _ = WireEvent(text).new_record


def test_an_absent_value_stays_absent() -> None:
    record = sent(EVENTS["insert with an absent value"]).new_record

    assert record is not None
    assert "name" not in record
    assert list(record) == [name for name in COLUMNS if name != "name"]


def test_changes_hold_new_and_old_values() -> None:
    changes = sent(EVENTS["update, old row known"]).changes

    assert changes == {"id": Change(42, 41), "active": Change(True, None)}
    assert sent(EVENTS["update of nothing"]).changes == {}
    assert sent(EVENTS["update, old row unknown"]).changes is None


def test_the_wire_is_text_in_text() -> None:
    """So that kombu's hooks never walk user data (DESIGN, section 4)."""
    document = msgspec.json.decode(dumps(EVENTS["insert"]))

    assert document.keys() == {"__type__", "__value__"}
    assert document["__type__"] == "walex.event"
    assert isinstance(document["__value__"], str)


# Content that others stumble over (promise 10).


@pytest.mark.parametrize("type_name", ["json", "jsonb"])
@pytest.mark.parametrize(
    "document",
    [
        b'{"__type__": "walex.event", "__value__": "{}"}',
        b'{"__type__": "datetime", "__value__": "2020-01-01"}',
        b'{"__type__": "no such type", "__value__": null}',
        b'[{"__type__": 1, "__value__": 2}]',
    ],
)
def test_a_document_with_kombu_s_own_keys_is_data(type_name: str, document: bytes) -> None:
    expected = msgspec.json.decode(document)

    assert one_column(type_name, document) == (expected, expected)


@pytest.mark.parametrize("type_name", ["json", "jsonb"])
def test_the_document_null_is_not_sql_s_null(type_name: str) -> None:
    """Both are None in Python; but only the one was set."""
    columns = {"id": "integer", "document": type_name}
    event = row_event("update", {"document": b"null"}, {"document": None}, columns=columns)
    received = sent(event)

    assert event.changes == received.changes == {"document": Change(None, None)}
    assert received.new_record is not None
    assert received.new_record.texts() == {"id": None, "document": "null"}


def test_a_json_null_among_spaces_is_not_sql_s_null() -> None:
    """The type json keeps the text as it was written."""
    received = sent(row_event("insert", {"document": b" null\n"}, columns={"document": "json"}, key=()))

    assert received.new_record is not None
    assert received.new_record.texts() == {"document": " null\n"}


@pytest.mark.parametrize("type_name", ["json", "jsonb"])
@pytest.mark.parametrize("depth", [150, 250, 5000])
def test_a_deep_document_arrives(type_name: str, depth: int) -> None:
    document = b"[" * depth + b"]" * depth
    producer, worker = one_column(type_name, document)

    assert producer == worker
    if isinstance(worker, str):  # too deep for Python: Postgres' own text
        assert worker == document.decode()
    received = sent(row_event("insert", {"value": document}, columns={"value": type_name}, key=()))
    assert received.new_record is not None
    assert received.new_record.texts() == {"value": document.decode()}


@pytest.mark.parametrize(
    "document",
    [
        b'"\\ud800"',  # half a surrogate pair: json takes it, jsonb does not
        b'{"a\\udfff": ["\\ud83d\\ude00"]}',
        b'{"n": 0.1000000000000000055511151231257827, "s": "\\ud800"}',
        b'{"n": 1e400, "s": "\\ud800"}',
        b"9" * 5000,
        b'{"n": %s, "s": "\\ud800"}' % (b"9" * 5000),
        b'{"a": "}", "b": "{\\"", "s": "\\uDfff"}',
        b"\t[\r\n1 ,\n2 ]\n",
    ],
)
def test_odd_documents_of_type_json_keep_every_digit(document: bytes) -> None:
    producer, worker = one_column("json", document)

    assert worker == producer
    received = sent(row_event("insert", {"value": document}, columns={"value": "json"}, key=()))
    assert received.new_record is not None
    assert (received.new_record.texts()["value"] or "").strip() == document.decode().strip()


def test_a_half_surrogate_in_one_column_leaves_the_others_alone() -> None:
    """What msgspec refuses is read another way, by which a number must not lose digits (promise 7)."""
    number = b"0.1000000000000000055511151231257827"
    columns = {"id": "integer", "odd": "json", "exact": "jsonb", "many": "jsonb", "text": "text"}
    cells: dict[str, Cell] = {"odd": b'"\\udc00"', "exact": number, "many": b"9" * 5000, "text": b'"}, \\"'}
    event = row_event("update", cells, {**cells, "exact": b"0.1"}, columns=columns)

    received = sent(event)

    assert_same(received, event)
    assert received.changes == {"exact": Change(Decimal(number.decode()), 0.1)}


def test_bytes_that_are_not_utf8_survive() -> None:
    """A SQL_ASCII database holds any; they are kept as lone surrogates (PEP 383)."""
    cells: dict[str, Cell] = {
        "id": b"1",
        "name": b"caf\xe9 \xff",
        "data": b'{"k\xff": ["\xe9", 0.1000000000000000055511151231257827]}',
        "raw": b'"\xff\\ud800"',
        "mood": b"\xfe",
    }
    event = row_event("update", cells, {**cells, "name": b"\xe9"})

    received = sent(event)

    assert_same(received, event)
    assert received.new_record is not None
    assert received.new_record["name"].encode("utf-8", "surrogateescape") == b"caf\xe9 \xff"
    assert received.new_record["data"]["k\udcff"][1] == Decimal("0.1000000000000000055511151231257827")


def test_names_that_are_not_utf8_survive() -> None:
    columns = {"id\udcff": "integer", "données": "jsonb", "n\udce9e": "text"}
    event = row_event(
        "update",
        {"id\udcff": b"1", "données": b"0.1000000000000000055511151231257827", "n\udce9e": b"\xff"},
        {"id\udcff": b"2", "données": b"1", "n\udce9e": b"\xff"},
        columns=columns,
        key=("id\udcff",),
        table="t\udcff",
        schema="s\udcff",
    )

    received = sent(event)

    assert_same(received, event)
    assert received.key == {"id\udcff": 1}
    assert repr(received).isascii()


def test_odd_names_survive() -> None:
    columns = dict.fromkeys(
        (
            'a "quoted" one',
            "back\\slash",
            "emoji 🦣",
            "new\nline",
            "%s %% %b",
            "{braces}",
            "__type__",
            "__value__",
        ),
        "text",
    )
    event = row_event(
        "insert",
        dict.fromkeys(columns, b"x"),
        columns=columns,
        key=(*columns,),
        table='t "%\n🦣',
        schema="s.:",
    )

    assert_same(sent(event), event)
    assert sent(event).new_record == dict.fromkeys(columns, "x")


TEXT_CELLS = st.one_of(
    st.none(), st.just(UNCHANGED), st.binary(max_size=20), st.text(st.characters(codec="utf-8")).map(str.encode)
)  # fmt: skip


@given(name=st.text(min_size=1, max_size=8), cells=st.lists(TEXT_CELLS, min_size=3, max_size=3))
def test_any_text_under_any_name_survives(name: str, cells: list[Cell]) -> None:
    columns = {"id": "integer", name + "_": "text", "b": "bytea", "c": "varchar"}
    event = row_event("insert", dict(zip(list(columns)[1:], cells, strict=True)), columns=columns)

    assert_same(sent(event), event)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["__type__", "__value__", "a"]) | st.text(max_size=3), inner, max_size=3),
))  # fmt: skip
def test_any_document_survives(document: Any) -> None:
    text = msgspec.json.encode(document)
    producer, worker = one_column("jsonb", text)

    assert producer == worker
    assert producer == msgspec.json.decode(text)


# In logs and in Flower.


def test_the_repr_is_one_short_line() -> None:
    """It is the task's argsrepr: the key, and no other row data."""
    event = row_event(
        "insert", {"name": b"n" * 100}, columns={"name": "text", "secret": "text"}, key=("name",)
    )

    assert repr(event) == f"<Event insert users name={'n' * 39}… lsn=0/16B3748>"
    assert repr(EVENTS["in a schema"]) == "<Event insert sales.orders id=42 lsn=0/16B3748>"
    assert repr(EVENTS["message"]) == "<Event message audit lsn=0/16B3748>"
    assert repr(EVENTS["insert of nulls"]) == "<Event insert users id=NULL lsn=0/16B3748>"


def test_the_repr_has_nothing_that_a_log_or_terminal_obeys() -> None:
    key = b"1\n2020-01-01 ERROR fake \x1b[2J\xff"
    event = row_event("insert", {"a\nb": key}, columns={"a\nb": "text"}, key=("a\nb",), table="t\x1b[0m")

    for text in (repr(event), repr(sent(event))):
        assert text.isprintable()
        assert text.startswith(r"<Event insert t\x1b[0m a\nb=1\n2020-01-01 ERROR fake \x1b[2J")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("Zoë 🦣", "Zoë 🦣"), ("a\tb", r"a\tb"), ("\udcff", r"\udcff"), ("\u202e", r"\u202e"), ("\\n", "\\n")],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_short() -> None:
    assert (short(None), short("x" * 40), short("x" * 41, 3)) == ("NULL", "x" * 40, "xx…")


# A worker's own handling.


def test_an_event_can_be_passed_on() -> None:
    """As self.retry() and apply_async(args=(event,)) do."""
    received = sent(EVENTS["update, old row known"])

    assert_same(sent_again := loads(dumps(received)), received)
    assert sent_again.to_json() == received.to_json()


def test_an_event_can_be_copied() -> None:
    received = sent(EVENTS["insert"])

    assert copy.deepcopy(received) == received
    assert pickle.loads(pickle.dumps(received)) == received


def test_a_message_outside_of_transactions_says_so() -> None:
    info = TransactionInfo(None, Lsn(1), INFO.timestamp + timedelta(1))
    source = Source("WalEx", "1.0", "shop", "", "", {})
    event = PlainEvent("message", source, context(info), 0, prefix="audit", content=b"")

    assert (sent(event).transactional, sent(event).xid) == (False, None)
    assert sent(EVENTS["message"]).transactional is True
    assert sent(EVENTS["truncate"]).transactional is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"name": 1}', '{"name": "\\ud800"}', '{"new_record": "\\ud800"}',
     '{"new_record": {"\\ud800": }}', '{"\\ud800"', '{"\\ud800": 1', '{"\\ud800": [[[[', "\udcff",
     '{"a": "\\ud800"}' + " x"],
)  # fmt: skip
def test_a_text_that_is_no_event_fails_when_it_is_looked_at(text: str) -> None:
    """Not when kombu reads the message, which would make the worker throw it away."""
    event = loads(dumps({"__type__": "walex.event", "__value__": text}))

    with pytest.raises(DecodeError):
        _ = event.new_record


def test_a_cut_text_is_a_decode_error() -> None:
    text = EVENTS["update, old row known"].to_json().decode()

    for length in range(len(text)):
        with pytest.raises(DecodeError):
            _ = Event.from_json(text[:length]).type
