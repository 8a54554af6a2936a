"""SQL that does to a copy what an event says was done to its source; made of Postgres' own text of each value.

Statements are bytes: a SQL_ASCII database may hold names and values that are no text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from walex_celery import Event
from walex_celery.events.cells import UNCHANGED, text_of_cell
from walex_celery.events.record import Record
from walex_celery.events.wire import WireEvent

Texts = Mapping[str, str | None]

#: Integers go by their SQL names in ``source.columns``; all other built-in types by ``pg_type.typname``.
_TYPNAMES = {"smallint": "int2", "integer": "int4", "bigint": "int8"}


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def identifier(name: str) -> bytes:
    return b'"' + encoded(name).replace(b'"', b'""') + b'"'


def literal(text: str) -> bytes:
    return b"'" + encoded(text).replace(b"'", b"''") + b"'"


def sql_type(name: str) -> bytes:
    """A type's name in ``source.columns`` as SQL; quoted, as ``bit`` and ``char`` mean other types in SQL."""
    element = name.removesuffix("[]")
    if "." not in element:
        element = f'pg_catalog."{_TYPNAMES.get(element, element)}"'
    return encoded(element) + (b"[]" if name.endswith("[]") else b"")


def printed(column: str) -> bytes:
    """What the output function of its type prints for a column; a cast to text may say otherwise (bool, char).

    NULL gives NULL; not so IS NOT NULL, which of a row asks for its fields.
    """
    name = identifier(column)
    return b"CASE WHEN %b IS DISTINCT FROM NULL THEN format('%%s', %b) END" % (name, name)


def statement(event: Event, generated: Collection[str] = ()) -> bytes:
    """*event* as SQL. *generated* columns of the copy are left to it."""
    table = identifier(event.source.schema) + b"." + identifier(event.source.table)
    if event.type == "truncate":
        return b"DELETE FROM " + table
    if event.type == "delete":
        assert event.old_record is not None
        return b"DELETE FROM " + table + _one_row(table, event.old_record.texts())
    assert event.new_record is not None
    new = {name: text for name, text in event.new_record.texts().items() if name not in generated}
    values = [_value(event, name, text) for name, text in new.items()]
    if event.type == "insert":
        if not new:
            return b"INSERT INTO " + table + b" DEFAULT VALUES"
        return b"INSERT INTO %b (%b) OVERRIDING SYSTEM VALUE VALUES (%b)" % (
            table, b", ".join(map(identifier, new)), b", ".join(values),
        )  # fmt: skip
    assert event.type == "update"
    if not new:
        return b"SELECT"
    assignments = [identifier(name) + b" = " + value for name, value in zip(new, values, strict=True)]
    return b"UPDATE " + table + b" SET " + b", ".join(assignments) + _one_row(table, _old_texts(event))


def _value(event: Event, name: str, text: str | None) -> bytes:
    return b"NULL" if text is None else literal(text) + b"::" + sql_type(event.source.columns[name])


def _old_texts(event: Event) -> Texts:
    """What is known of a row before its update, enough to find it."""
    new = event.new_record
    assert new is not None
    if event.changes is not None:
        # The whole old row. Event.changes has Python values, so its cells are taken, as a worker got them.
        assert isinstance(event, WireEvent)
        assert event._wire.changes is not None
        changed = {
            name: None if cell is None else text_of_cell(cell)
            for name, cell in zip(event.source.columns, event._cells(event._wire.changes), strict=True)
            if cell is not UNCHANGED
        }
        return {**new.texts(), **changed}
    assert event.source.key, "an update of a row that nothing identifies"
    key = new.texts(event.source.key)
    if event.old_key is not None:
        assert isinstance(event.old_key, Record)
        key = event.old_key.texts()
    assert key.keys() == set(event.source.key)
    return key


def _one_row(table: bytes, texts: Texts) -> bytes:
    assert texts, "a row that nothing identifies"
    conditions = [
        printed(name) + (b" IS NULL" if text is None else b" = " + literal(text))
        for name, text in texts.items()
    ]
    return b" WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM %b WHERE %b LIMIT 1)" % (
        table, b" AND ".join(conditions),
    )  # fmt: skip
