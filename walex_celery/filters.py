"""Filters: which events a handler wants, as settings (:class:`Filters`) and as functions.

The functions are those of WalEx.TransactionFilter, under Pythonic names, on our
:class:`~walex_celery.Event`; all are pure. The producer compiles :class:`Filters` to work on the cells of a row
(``handlers/routes.py``); these functions apply the same rules to whole events, for users' own code, and to test the
compiled ones against.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from walex_celery.errors import ConfigurationError
from walex_celery.events.event import Change, Event

ALL_TABLES = "*"

#: The schema of walex-celery's own tables: their changes never become events, even where "*" is subscribed to.
OWN_SCHEMA = "walex"


class Table(NamedTuple):
    """A table's schema and name."""

    schema: str
    name: str

    def __str__(self) -> str:
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


def table_of(table: Any) -> Table:
    """The table that a user named: ``users`` (in public), ``sales.orders``, ``sales:orders`` or a model class.

    A model class knows its table: Django's ``_meta.db_table``, SQLAlchemy's ``__table__``.

    Raises:
        ConfigurationError: for anything else.

    >>> table_of("users")
    Table(schema='public', name='users')
    >>> table_of("sales:orders")
    Table(schema='sales', name='orders')
    """
    if isinstance(table, Table):
        return table
    db_table = getattr(getattr(table, "_meta", None), "db_table", None)
    if isinstance(table, str):
        name = table
    elif isinstance(db_table, str):
        # Django spells a schema as 'sales"."orders': its quoting makes that "sales"."orders".
        name = db_table.replace('"."', ".").strip('"')
    elif (model := getattr(table, "__table__", None)) is not None:
        return Table(getattr(model, "schema", None) or "public", str(model.name))
    else:
        raise ConfigurationError(
            f"{table!r} names no table; give 'users', 'sales.orders', 'sales:orders' or a model class "
            "(Django, SQLAlchemy)"
        )
    if isinstance(table, str) and "*" in name:
        return _table_with_star(name)
    schema, found, rest = name.partition(":") if ":" in name else name.partition(".")
    result = Table(schema, rest) if found else Table("public", name)
    if not result.schema or not result.name:
        raise ConfigurationError(
            f"{table!r} names no table; one looks like 'users', 'sales.orders' or 'sales:orders'"
        )
    return result


# A schema, quoted or without a star, and a separator; then a name, likewise.
_QUOTED_TABLE = re.compile(r'(?:(?:"([^"]+)"|([^".:*]+))[.:])?(?:"([^"]+)"|([^"*]+))')


def _table_with_star(name: str) -> Table:
    """The table whose schema or name has a star in it, which must be quoted: ``sales."odd*name"``."""
    match = _QUOTED_TABLE.fullmatch(name)
    if match is None:
        raise ConfigurationError(
            f"{name!r} is a pattern, and patterns are not supported: it would match no table\n"
            "  fix: name each table, or subscribe to '*' (all tables); a table that really has a star in its name is "
            "written in double quotes: 'sales.\"odd*name\"'"
        )
    quoted_schema, schema, quoted, plain = match.groups()
    return Table(quoted_schema or schema or "public", quoted or plain)


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which events a handler does not want.

    Attributes:
        unwatched_records: an event is dropped when *all* these columns have these values: in the new row, or
            in the old one for a delete.
        unwatched_fields: an update is dropped when nothing but these columns changed. Where the old values
            are unknown (the table's replica identity is not FULL), no update is dropped by this.

    >>> Filters(unwatched_records={"event_subscribe": False}, unwatched_fields=["updated_at"])
    Filters(unwatched_records={'event_subscribe': False}, unwatched_fields=('updated_at',))
    """

    unwatched_records: dict[str, Any] = {}
    unwatched_fields: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.unwatched_records, Mapping) or not all(
            isinstance(name, str) for name in self.unwatched_records
        ):
            raise ConfigurationError(
                f"unwatched_records takes a mapping of column to value, such as {{'event_subscribe': False}}; "
                f"got {self.unwatched_records!r}"
            )
        fields: Any = self.unwatched_fields
        if isinstance(fields, Iterable) and not isinstance(fields, str):
            fields = tuple(fields)
        if not isinstance(fields, tuple) or not all(isinstance(name, str) for name in fields):
            raise ConfigurationError(
                f"unwatched_fields takes a list of column names, such as ['updated_at']; got {fields!r}"
            )
        msgspec.structs.force_setattr(self, "unwatched_records", dict(self.unwatched_records))
        msgspec.structs.force_setattr(self, "unwatched_fields", fields)

    def accepts(self, event: Event) -> bool:
        """Whether *event* passes."""
        if self.unwatched_records and not is_watched_record(event, self.unwatched_records):
            return False
        return not self.unwatched_fields or has_watched_change(event, self.unwatched_fields)


def filters_of(filters: Filters | Mapping[str, Any] | None) -> Filters:
    """*filters* as a :class:`Filters`; may be a mapping, as in WalEx, or nothing.

    Raises:
        ConfigurationError: for a key that is no filter.
    """
    if isinstance(filters, Filters):
        return filters
    if filters is None:
        return Filters()
    if not isinstance(filters, Mapping):
        raise ConfigurationError(f"filters are a walex_celery.Filters or a mapping, not {filters!r}")
    unknown = sorted(map(repr, set(filters) - {"unwatched_records", "unwatched_fields"}))
    if unknown:
        raise ConfigurationError(
            f"unknown filter {', '.join(unknown)}; there are unwatched_records and unwatched_fields"
        )
    return Filters(**filters)


class RelationFilter(NamedTuple):
    """A parsed relation pattern; ``None`` matches all."""

    schema: str | None
    table: str | None


def parse_relation_filter(relation: str) -> RelationFilter:
    """The pattern that *relation* stands for: ``*``, ``schema`` or ``schema:table``.

    Raises:
        ConfigurationError: for a malformed pattern.

    >>> parse_relation_filter("public:users")
    RelationFilter(schema='public', table='users')
    >>> parse_relation_filter("public")
    RelationFilter(schema='public', table=None)
    >>> parse_relation_filter("*")
    RelationFilter(schema=None, table=None)
    """
    parts = relation.split(":")
    if relation in ("", "*"):
        return RelationFilter(None, None)
    if len(parts) == 1:
        return RelationFilter(relation, None)
    if len(parts) == 2:
        return RelationFilter(parts[0], parts[1])
    raise ConfigurationError(
        f"malformed relation filter {relation!r}; one looks like '*', 'public' or 'public:users'"
    )


def matches(pattern: Mapping[str, str], events: Iterable[Event]) -> bool:
    """Whether any of *events* has the type and relation of *pattern*.

    ``{"event": "*" or "INSERT" ..., "relation": "*", "schema" or "schema:table"}``, case of the event ignored.
    A malformed pattern matches nothing.
    """
    try:
        wanted, filter = pattern["event"].lower(), parse_relation_filter(pattern["relation"])
    except (KeyError, AttributeError, ConfigurationError):
        return False
    return any(
        wanted in ("*", event.type)
        and filter.schema in (None, event.source.schema)
        and filter.table in (None, event.source.table)
        for event in events
    )


def _is_event(type: str, relation: Any, events: Event | Iterable[Event]) -> bool:
    table = table_of(relation)
    found = [events] if isinstance(events, Event) else events
    return any(event.type == type and has_table(event, table) for event in found)


def is_insert_event(relation: Any, events: Event | Iterable[Event]) -> bool:
    """Whether an event, or any of several, is an insert into *relation* (public unless it says otherwise)."""
    return _is_event("insert", relation, events)


def is_update_event(relation: Any, events: Event | Iterable[Event]) -> bool:
    """Whether an event, or any of several, is an update of *relation*."""
    return _is_event("update", relation, events)


def is_delete_event(relation: Any, events: Event | Iterable[Event]) -> bool:
    """Whether an event, or any of several, is a delete from *relation*."""
    return _is_event("delete", relation, events)


def is_truncate_event(relation: Any, events: Event | Iterable[Event]) -> bool:
    """Whether an event, or any of several, is a TRUNCATE of *relation*."""
    return _is_event("truncate", relation, events)


def has_table(event: Event, table: Any) -> bool:
    """Whether *event* is of *table*."""
    return (event.source.schema, event.source.table) == table_of(table)


def is_type(event: Event, type: str) -> bool:
    """Whether *event* is of *type* (insert, update, delete, truncate, message)."""
    return event.type == type


def subscribes(event: Event, subscriptions: Iterable[Any]) -> bool:
    """Whether *subscriptions* has the table of *event*, or ``"*"``."""
    return any(entry == ALL_TABLES or has_table(event, entry) for entry in subscriptions)


def subscribes_to_table(event: Event, table: Any, subscriptions: Iterable[Any]) -> bool:
    """Whether *event* is of *table* and *subscriptions* has that table."""
    return has_table(event, table) and subscribes(event, subscriptions)


def filter_subscribed(events: Iterable[Event], subscriptions: Iterable[Any]) -> list[Event]:
    """The events whose tables *subscriptions* has."""
    wanted = list(subscriptions)
    return [event for event in events if subscribes(event, wanted)]


def filter_changes(
    events: Iterable[Event], table: Any, type: str | None = None, subscriptions: Iterable[Any] = (ALL_TABLES,)
) -> list[Event]:
    """The subscribed events of *table*, and of *type* where one is given."""
    wanted = list(subscriptions)
    return [
        event
        for event in events
        if subscribes_to_table(event, table, wanted) and (type is None or is_type(event, type))
    ]


def filter_unwatched_fields(events: Iterable[Event], unwatched_fields: Iterable[str]) -> list[Event]:
    """The events that are not updates of nothing but *unwatched_fields*."""
    unwatched = set(unwatched_fields)
    return [event for event in events if has_watched_change(event, unwatched)]


def has_watched_change(event: Event, unwatched_fields: Iterable[str]) -> bool:
    """Whether an update changed a column outside *unwatched_fields*; true for other events, or if it can't be known."""
    changes = event.changes
    return changes is None or not set(changes) <= set(unwatched_fields)


def filter_unwatched_records(events: Iterable[Event], unwatched_records: Mapping[str, Any]) -> list[Event]:
    """The events whose rows do not have all the values of *unwatched_records*."""
    return [event for event in events if is_watched_record(event, unwatched_records)]


def is_watched_record(event: Event, unwatched_records: Mapping[str, Any]) -> bool:
    """Whether the row of *event* (new, or old for a delete) differs from *unwatched_records* anywhere."""
    record = event.new_record if event.new_record is not None else event.old_record
    return record is None or not contains_unwatched_records(record, unwatched_records)


def contains_unwatched_records(record: Mapping[str, Any], unwatched_records: Mapping[str, Any]) -> bool:
    """Whether *record* has every column of *unwatched_records* with its value.

    >>> contains_unwatched_records({"id": 1, "event_subscribe": False}, {"event_subscribe": False})
    True
    """
    return all(name in record and record[name] == value for name, value in unwatched_records.items())


def map_changes(old_record: Mapping[str, Any], new_record: Mapping[str, Any]) -> dict[str, Change]:
    """What differs between two rows, by column of the old one that the new one has too.

    >>> map_changes({"id": 1, "name": "Chase"}, {"id": 1, "name": "Chase Pursley"})
    {'name': Change(new_value='Chase Pursley', old_value='Chase')}
    """
    return {
        name: Change(new_record[name], old)
        for name, old in old_record.items()
        if name in new_record and new_record[name] != old
    }


def map_columns(event: Event) -> dict[str, str]:
    """Type name by column name, as in ``event.source.columns``."""
    return dict(event.source.columns)
