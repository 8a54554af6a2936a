"""What the subscriptions and handlers of an application ask of each table."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from walex_celery.database.schema import Schema, TableState
from walex_celery.filters import OWN_SCHEMA, Table
from walex_celery.handlers.kinds import DELETE, PUBLISHED, UPDATE, WITH_OLD_ROW
from walex_celery.handlers.registry import Handler
from walex_celery.settings.model import WalExSettings


class TableRequirement(msgspec.Struct, frozen=True):
    """What subscriptions and handlers require of one table.

    Attributes:
        state: the table.
        named: whether a subscription or a handler names it; ``"*"`` does not.
        types: the event types that handlers want, of those that publications send.
        filter_columns: the columns that filters name and the table has.
        by_filters: handlers whose filters need the whole old row, each with the reason.
        by_changes: handlers that work without it, but see no ``changes`` and only the key of a deleted row.
    """

    state: TableState
    named: bool
    types: frozenset[str]
    filter_columns: frozenset[str]
    by_filters: tuple[str, ...]
    by_changes: tuple[str, ...]

    @property
    def table(self) -> Table:
        """Its schema and name."""
        return self.state.table


def requirements_of(
    settings: WalExSettings, handlers: Iterable[Handler], schema: Schema
) -> list[TableRequirement]:
    """The requirements of every subscribed table that exists."""
    found = list(handlers)
    named = {table for table in settings.subscriptions if isinstance(table, Table)}
    named |= {handler.table for handler in found if handler.table is not None}
    return [
        requirement_of(state, found, named=state.table in named)
        for state in subscribed_tables(settings, found, schema)
    ]


def subscribed_tables(
    settings: WalExSettings, handlers: Iterable[Handler], schema: Schema
) -> list[TableState]:
    """The subscribed tables that exist.

    ``"*"`` means all but walex-celery's own tables and partitioned tables that no handler names.
    """
    if not settings.all_tables:
        return [schema.tables[table] for table in settings.subscriptions if table in schema.tables]
    named = {handler.table for handler in handlers}
    return [
        state
        for state in schema.tables.values()
        if state.persistence == "p"
        and state.table.schema != OWN_SCHEMA
        and (not state.partitioned or state.table in named)
    ]


def requirement_of(state: TableState, handlers: Iterable[Handler], *, named: bool) -> TableRequirement:
    """What *handlers* require of *state*, assuming that it is subscribed."""
    types: set[str] = set()
    columns: set[str] = set()
    by_filters: list[str] = []
    by_changes: list[str] = []
    for handler in handlers:
        wanted = {kind for kind in PUBLISHED if handler.wants(state.table, kind)}
        if not wanted:
            continue
        types |= wanted
        filters = handler.filters
        columns |= {*filters.unwatched_records, *filters.unwatched_fields}.intersection(state.columns)
        if filters.unwatched_fields and UPDATE.name in wanted:
            by_filters.append(f"unwatched_fields of {handler.name}")
        elif hidden := sorted(set(filters.unwatched_records) - set(state.key)):
            if DELETE.name in wanted and set(hidden).issubset(state.columns):
                by_filters.append(f"unwatched_records of {handler.name} on deletes ({', '.join(hidden)})")
            elif UPDATE.name in wanted:
                by_changes.append(handler.name)
        elif wanted & WITH_OLD_ROW:
            by_changes.append(handler.name)
    return TableRequirement(
        state, named, frozenset(types), frozenset(columns), tuple(by_filters), tuple(by_changes)
    )


def unsubscribed_handlers(settings: WalExSettings, handlers: Iterable[Handler]) -> list[Handler]:
    """Handlers of tables that are not subscribed: they are never called."""
    return [
        handler
        for handler in handlers
        if handler.table is not None and not settings.subscribes_to(handler.table)
    ]


def where_handlers_go(settings: WalExSettings) -> str:
    """What to do when there is no handler."""
    tables = [table.name for table in settings.subscriptions if isinstance(table, Table)]
    events = (
        f"{settings.name}.events.{tables[0]}" if tables else f"a module of the package {settings.name}.events"
    )
    return (
        "decorate a function or a task with @walex.on_event(...), in the application's module, in a module that Celery "
        f"loads (include=), in {events}, or in a module listed in modules="
    )


def wants_rows(handlers: Iterable[Handler]) -> bool:
    """Whether any handler is for tables, not only for messages."""
    return any(handler.of_tables for handler in handlers)
