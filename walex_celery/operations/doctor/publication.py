"""Checks of publications against subscriptions and handlers."""

from __future__ import annotations

from collections.abc import Iterator

from walex_celery.filters import OWN_SCHEMA, Table
from walex_celery.handlers.kinds import WITH_OLD_ROW
from walex_celery.operations.doctor.context import Context
from walex_celery.operations.doctor.finding import Finding, do, python, sql
from walex_celery.operations.doctor.registry import LeftOut, check
from walex_celery.operations.setup.changes import (
    fit_publications,
    lists_tables,
    under_partitions_name,
    unpublished,
    unpublished_operations,
)
from walex_celery.operations.setup.schema import (
    PublicationState,
    TableState,
    missing_publications,
    missing_tables,
    similar,
)


def _names(tables: list[Table]) -> str:
    return ", ".join(map(str, tables))


@check("the publication exists")
def publication_exists(context: Context) -> Iterator[Finding]:
    """Every publication of the settings."""
    schema, settings = context.schema, context.settings
    missing = missing_publications(schema, settings)
    if missing:
        fits = fit_publications(settings, context.needs, schema, context.statements)
        yield Finding(
            "publication_exists",
            "error",
            f"publication {', '.join(map(repr, missing))} does not exist in database {settings.database!r}",
            sql(*(fit.sql for fit in fits)),
        )


@check("the tables subscribed to exist")
def tables_exist(context: Context) -> Iterator[Finding]:
    """A subscription of a table that the database does not have."""
    for table in missing_tables(context.schema, context.settings):
        yield Finding(
            "tables_exist",
            "error",
            f"subscriptions name {table}, and database {context.settings.database!r} has no such table"
            f"{similar(table, context.schema)}",
            do("Create it (run your migrations), or correct subscriptions="),
        )


@check("the tables subscribed to are published")
def tables_published(context: Context) -> Iterator[Finding]:
    """Tables that subscriptions or handlers name and no publication has."""
    schema, settings = context.schema, context.settings
    if missing_publications(schema, settings):
        raise LeftOut  # publication_exists has the statements for both
    unlogged = [need.state for need in context.needs if need.state.persistence == "u"]
    for state in unlogged:
        yield Finding(
            "tables_published",
            "error",
            f"{state.table} is UNLOGGED: its changes are in no WAL, and can't be published",
            sql(context.statements.set_logged(state)),
        )
    lacking = [state.table for state in unpublished(context.needs, schema) if state not in unlogged]
    if lacking:
        yield Finding(
            "tables_published",
            "error",
            f"no publication of {', '.join(settings.publication)} has {_names(lacking)}: their changes don't arrive",
            sql(context.statements.add_tables(settings.publication[0], lacking)),
        )
    if lists_tables(settings, schema):
        published = sum(1 for need in context.needs if schema.published_by(need.state))
        yield Finding(
            "tables_published",
            "info",
            f"subscriptions '*' are the {published} tables that the publication lists, of {len(context.needs)}",
        )


@check("nothing is published that nobody subscribed to")
def published_for_nothing(context: Context) -> Iterator[Finding]:
    """Tables that Postgres decodes and sends, to be dropped on arrival."""
    schema, settings = context.schema, context.settings
    if settings.all_tables:
        raise LeftOut
    wanted = {need.state.oid for need in context.needs}
    for publication in schema.publications.values():
        if publication.all_tables or publication.schemas:
            others = [
                state
                for state in schema.tables.values()
                if not state.partitioned
                and state.table.schema != OWN_SCHEMA
                and publication.member(state) is not None
                and not wanted.intersection((state.oid, *state.ancestors))
            ]
            what = "all tables" if publication.all_tables else "whole schemas"
            if others:
                yield Finding(
                    "published_for_nothing",
                    "info",
                    f"publication {publication.name!r} has {what}: {len(others)} tables that nobody subscribed to "
                    "are decoded and sent too",
                )
            continue
        for oid in publication.members:
            state = schema.by_oid.get(oid)
            if state is not None and not _concerns(state, wanted, context):
                yield Finding(
                    "published_for_nothing",
                    "info",
                    f"publication {publication.name!r} has {state.table}, which nobody subscribed to",
                    sql(context.statements.drop_table(publication.name, state.table)),
                )


def _concerns(state: TableState, wanted: set[int], context: Context) -> bool:
    partitions = {leaf.oid for leaf in context.schema.leaves(state)}
    return bool(wanted.intersection((state.oid, *state.ancestors, *partitions)))


@check("the events that handlers want are published")
def operations_published(context: Context) -> Iterator[Finding]:
    """``publish =`` lacks insert, update, delete or truncate, which a handler wants."""
    for name, operations in unpublished_operations(context.needs, context.schema).items():
        publication = context.schema.publications[name]
        yield Finding(
            "operations_published",
            "error",
            f"handlers want {', '.join(sorted(operations))}, and publication {name!r} does not publish it",
            sql(context.statements.publish(publication, operations)),
        )


@check("partitions are published under the names that are subscribed to")
def partition_names(context: Context) -> Iterator[Finding]:
    """``publish_via_partition_root`` says under which name a partition's rows come."""
    schema = context.schema
    for name, roots in under_partitions_name(context.needs, schema).items():
        yield Finding(
            "partition_names",
            "error",
            f"publication {name!r} sends the rows of {_names(roots)} under the names of its partitions, to which "
            "nobody subscribed",
            sql(context.statements.publish_via_root(name)),
        )
    if context.settings.all_tables:
        return
    for need in context.needs:
        if need.state.partitioned or not need.state.ancestors:
            continue
        shown = list(schema.published_as(need.state))
        if shown and all(other.oid != need.state.oid for _, other in shown):
            publication, other = shown[0]
            yield Finding(
                "partition_names",
                "error",
                f"publication {publication.name!r} sends the rows of partition {need.table} under the name "
                f"{other.table}",
                python(f"subscriptions=[..., {str(other.table)!r}]  # instead of {str(need.table)!r}"),
            )


@check("column lists hide no column that filters or keys need")
def column_lists(context: Context) -> Iterator[Finding]:
    """A publication's column list (Postgres 15) may leave out what a filter looks at, or the key."""
    for need in context.needs:
        lists: set[tuple[str, ...] | None] = set()
        for publication in context.schema.published_by(need.state):
            member = publication.member(need.state)
            if member is None:
                continue
            lists.add(None if member.columns is None else tuple(sorted(member.columns)))
            if member.columns is None:
                continue
            whole = context.statements.whole_table(publication.name, need.table)
            hidden = sorted(need.filter_columns - set(member.columns))
            if hidden:
                yield Finding(
                    "column_lists",
                    "error",
                    f"publication {publication.name!r} leaves out {', '.join(hidden)} of {need.table}, which filters "
                    "name: they drop nothing",
                    sql(whole),
                )
            identity = need.state.columns if need.state.old_rows_are_whole else need.state.key
            if WITH_OLD_ROW & publication.operations and not set(identity) <= set(member.columns):
                yield Finding(
                    "column_lists",
                    "error",
                    f"publication {publication.name!r} leaves out columns of {need.table}'s replica identity: "
                    "Postgres refuses its UPDATE and DELETE",
                    sql(whole),
                )
        if len(lists) > 1:
            yield Finding(
                "column_lists",
                "error",
                f"publications have different column lists of {need.table}: Postgres ends the stream with an error",
                do("Give all publications of publication= the same columns of it"),
            )


@check("no row filter keeps rows back")
def row_filters(context: Context) -> Iterator[Finding]:
    """A publication's row filter (Postgres 15): no event comes of rows that it keeps back."""
    for need in context.needs:
        for publication in context.schema.published_by(need.state):
            member = publication.member(need.state)
            if member is not None and member.condition is not None:
                yield Finding(
                    "row_filters",
                    "info",
                    f"publication {publication.name!r} sends of {need.table} only rows WHERE {member.condition}",
                )


def publishes_old_rows(publication: PublicationState) -> bool:
    """Whether updates or deletes are sent, for which Postgres needs a replica identity."""
    return bool(WITH_OLD_ROW & publication.operations)
