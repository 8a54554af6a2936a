"""What the subscriptions and handlers of an application ask of each table."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from walex_celery.filters import OWN_SCHEMA, Table
from walex_celery.handlers.kinds import DELETE, PUBLISHED, UPDATE, WITH_OLD_ROW
from walex_celery.handlers.registry import Handler
from walex_celery.operations.setup.schema import Schema, TableState
from walex_celery.settings.model import WalExSettings


class Need(msgspec.Struct, frozen=True):
    """What is wanted of one table.

    Attributes:
        state: the table.
        named: whether a subscription or a handler names it; ``"*"`` does not.
        types: of events that some handler wants, of those that a publication sends.
        filter_columns: those that filters name, as far as the table has them.
        by_filters: handlers whose filters can't work without the whole old row, each with the reason.
        by_changes: handlers that are called without it, but see no ``changes`` and, of a deleted row, its key only.
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


def needs_of(settings: WalExSettings, handlers: Iterable[Handler], schema: Schema) -> list[Need]:
    """The needs of every subscribed table that exists."""
    found = list(handlers)
    named = {table for table in settings.subscriptions if isinstance(table, Table)}
    named |= {handler.table for handler in found if handler.table is not None}
    return [
        need_of(state, found, named=state.table in named)
        for state in subscribed_tables(settings, found, schema)
    ]


def subscribed_tables(
    settings: WalExSettings, handlers: Iterable[Handler], schema: Schema
) -> list[TableState]:
    """The tables subscribed to that exist.

    Of ``"*"``: all but those that events don't name, that is partitions of a table that a handler names, and
    walex-celery's own.
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


def need_of(state: TableState, handlers: Iterable[Handler], *, named: bool) -> Need:
    """What *handlers* ask of *state*, taken as subscribed."""
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
    return Need(state, named, frozenset(types), frozenset(columns), tuple(by_filters), tuple(by_changes))


def unsubscribed_handlers(settings: WalExSettings, handlers: Iterable[Handler]) -> list[Handler]:
    """Handlers of a table that nobody subscribed to: they are never called."""
    return [
        handler
        for handler in handlers
        if handler.table is not None and not settings.subscribes_to(handler.table)
    ]


def wants_rows(handlers: Iterable[Handler]) -> bool:
    """Whether any handler is of tables, not only of messages."""
    return any(handler.of_tables for handler in handlers)
