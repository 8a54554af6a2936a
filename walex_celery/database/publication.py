"""Checks of publications against subscriptions and handlers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from walex_celery._invocation import celery_command
from walex_celery.database.changes import (
    lists_tables,
    publication_changes,
    under_partitions_name,
    unpublished,
    unpublished_operations,
)
from walex_celery.database.finding import Finding, do, python, sql
from walex_celery.database.registry import LeftOut, check
from walex_celery.database.schema import (
    PublicationState,
    Schema,
    TableState,
    did_you_mean,
    meant_by,
    missing_publications,
    missing_tables,
    similar,
)
from walex_celery.database.subject import Subject
from walex_celery.filters import OWN_SCHEMA, Table
from walex_celery.handlers.kinds import WITH_OLD_ROW
from walex_celery.handlers.registry import Handler
from walex_celery.settings.model import WalExSettings


def _names(tables: list[Table]) -> str:
    return ", ".join(map(str, tables))


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def is_other_database(schema: Schema, settings: WalExSettings) -> bool:
    """Whether nothing is there that the settings name, nor anything of a similar name."""
    tables = [table for table in settings.subscriptions if isinstance(table, Table)]
    return (
        bool(tables)
        and len(missing_publications(schema, settings)) == len(settings.publication)
        and not any(table in schema.tables or meant_by(table, schema.tables) for table in tables)
        and not any(get_close_matches(name, schema.publication_names) for name in settings.publication)
    )


@check("the publication exists")
def publication_exists(subject: Subject) -> Iterator[Finding]:
    """Every configured publication."""
    schema, settings = subject.schema, subject.settings
    missing = missing_publications(schema, settings)
    absent = missing_tables(schema, settings)
    if missing and absent and is_other_database(schema, settings):
        yield Finding(
            "publication_exists",
            "error",
            f"database {settings.database!r} has neither publication {', '.join(map(repr, missing))} nor "
            f"{'tables' if len(absent) > 1 else 'table'} {_names(absent)}",
            do(
                "Correct database= (or the url) if it is another one. Otherwise create the tables (run your "
                f"migrations), then: {celery_command()} walex setup"
            ),
        )
    elif missing:
        close = {
            other for name in missing for other in get_close_matches(name, schema.publication_names, n=1)
        }
        changes = publication_changes(settings, subject.requirements, schema, subject.statements)
        yield Finding(
            "publication_exists",
            "error",
            f"publication {', '.join(map(repr, missing))} does not exist in database {settings.database!r}"
            f"{did_you_mean(map(repr, sorted(close)))}",
            sql(*(change.sql for change in changes)),
        )


@check("the subscribed tables exist")
def tables_exist(subject: Subject) -> Iterator[Finding]:
    """Subscriptions to tables that don't exist."""
    if is_other_database(subject.schema, subject.settings):
        raise LeftOut  # publication_exists says so of both
    for table in missing_tables(subject.schema, subject.settings):
        yield Finding(
            "tables_exist",
            "error",
            f"subscriptions name {table}, but database {subject.settings.database!r} has no such table"
            f"{similar(table, subject.schema)}",
            do("Create it (run your migrations), or correct subscriptions="),
        )


@check("the subscribed tables are published")
def tables_published(subject: Subject) -> Iterator[Finding]:
    """Tables that subscriptions or handlers name, but no publication includes."""
    schema, settings = subject.schema, subject.settings
    if missing_publications(schema, settings):
        raise LeftOut  # publication_exists has the statements for both
    unlogged = [
        requirement.state for requirement in subject.requirements if requirement.state.persistence == "u"
    ]
    for state in unlogged:
        yield Finding(
            "tables_published",
            "error",
            f"{state.table} is UNLOGGED: its changes are not in the WAL, so they can't be published",
            sql(subject.statements.set_logged(state)),
        )
    lacking = [state.table for state in unpublished(subject.requirements, schema) if state not in unlogged]
    if lacking:
        yield Finding(
            "tables_published",
            "error",
            f"publication {' and '.join(settings.publication)} lacks {_names(lacking)}: their changes don't arrive",
            sql(subject.statements.add_tables(settings.publication[0], lacking)),
        )
    published = 0
    if settings.all_tables:
        published = sum(1 for requirement in subject.requirements if schema.published_by(requirement.state))
    if settings.all_tables and not published:
        yield Finding(
            "tables_published",
            "warning",
            f"subscriptions '*' match no table: publication {' and '.join(settings.publication)} has none",
            do(
                f"Create the tables (run your migrations) and add them: "
                f"ALTER PUBLICATION {settings.publication[0]} ADD TABLE ..."
            ),
        )
    elif lists_tables(settings, schema):
        yield Finding(
            "tables_published",
            "info",
            f"subscriptions '*' are the {published} tables that the publication lists, of {len(subject.requirements)}",
        )


@check("everything published is subscribed")
def published_for_nothing(subject: Subject) -> Iterator[Finding]:
    """Tables that Postgres decodes and sends, only to be dropped on arrival."""
    schema, settings = subject.schema, subject.settings
    if settings.all_tables:
        raise LeftOut
    wanted = {requirement.state.oid for requirement in subject.requirements}
    # Meant to be subscribed: a handler is for it, or it is what a misspelt subscription stands for.
    wanted |= {
        schema.tables[table].oid
        for table in (
            *(handler.table for handler in subject.handlers if handler.table in schema.tables),
            *(
                other
                for table in missing_tables(schema, settings)
                for other in meant_by(table, schema.tables)
            ),
        )
        if table is not None
    }
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
                    f"publication {publication.name!r} has {what}: {len(others)} tables that are not subscribed are "
                    "decoded and sent too",
                )
            continue
        for oid in publication.members:
            state = schema.by_oid.get(oid)
            if state is not None and not _concerns(state, wanted, subject):
                yield Finding(
                    "published_for_nothing",
                    "info",
                    f"publication {publication.name!r} has {state.table}, which is not subscribed",
                    sql(subject.statements.drop_table(publication.name, state.table)),
                )


def _concerns(state: TableState, wanted: set[int], subject: Subject) -> bool:
    partitions = {leaf.oid for leaf in subject.schema.leaves(state)}
    return bool(wanted.intersection((state.oid, *state.ancestors, *partitions)))


@check("the events that handlers want are published")
def operations_published(subject: Subject) -> Iterator[Finding]:
    """``publish =`` lacks insert, update, delete or truncate, which a handler wants."""
    for name, operations in unpublished_operations(subject.requirements, subject.schema).items():
        publication = subject.schema.publications[name]
        yield Finding(
            "operations_published",
            "error",
            f"handlers want {', '.join(sorted(operations))}, but publication {name!r} does not publish it",
            sql(subject.statements.publish(publication, operations)),
        )


@check("partitions are published under subscribed names")
def partition_names(subject: Subject) -> Iterator[Finding]:
    """``publish_via_partition_root`` decides under which name a partition's rows are sent."""
    schema = subject.schema
    for name, roots in under_partitions_name(subject.requirements, schema).items():
        yield Finding(
            "partition_names",
            "error",
            f"publication {name!r} sends the rows of {_names(roots)} under the names of its partitions, which are not "
            "subscribed",
            sql(subject.statements.publish_via_root(name)),
        )
    if subject.settings.all_tables:
        return
    for requirement in subject.requirements:
        if requirement.state.partitioned or not requirement.state.ancestors:
            continue
        shown = list(schema.published_as(requirement.state))
        if shown and all(other.oid != requirement.state.oid for _, other in shown):
            publication, other = shown[0]
            yield Finding(
                "partition_names",
                "error",
                f"publication {publication.name!r} sends the rows of partition {requirement.table} under the name "
                f"{other.table}",
                python(f"subscriptions=[..., {str(other.table)!r}]  # instead of {str(requirement.table)!r}"),
            )


@check("column lists hide no column that filters or keys need")
def column_lists(subject: Subject) -> Iterator[Finding]:
    """A publication's column list (Postgres 15) may leave out a column that a filter uses, or the key."""
    for requirement in subject.requirements:
        lists: set[tuple[str, ...] | None] = set()
        for publication in subject.schema.published_by(requirement.state):
            member = publication.member(requirement.state)
            if member is None:
                continue
            lists.add(None if member.columns is None else tuple(sorted(member.columns)))
            if member.columns is None:
                continue
            whole = subject.statements.whole_table(publication.name, requirement.table)
            hidden = sorted(requirement.filter_columns - set(member.columns))
            if hidden:
                yield Finding(
                    "column_lists",
                    "error",
                    f"publication {publication.name!r} leaves out {', '.join(hidden)} of {requirement.table}, which "
                    "filters name: they drop nothing",
                    sql(whole),
                )
            identity = (
                requirement.state.columns if requirement.state.old_rows_are_whole else requirement.state.key
            )
            if WITH_OLD_ROW & publication.operations and not set(identity) <= set(member.columns):
                yield Finding(
                    "column_lists",
                    "error",
                    f"publication {publication.name!r} leaves out columns of {requirement.table}'s replica identity: "
                    "Postgres refuses its UPDATE and DELETE",
                    sql(whole),
                )
        if len(lists) > 1:
            yield Finding(
                "column_lists",
                "error",
                f"publications have different column lists of {requirement.table}: Postgres ends the stream with an "
                "error",
                do("Give it the same column list in all publications of publication="),
            )


@check("the columns that filters name exist")
def filter_columns(subject: Subject) -> Iterator[Finding]:
    """A filter drops nothing by a column that no table of its handler has."""
    by_table = {requirement.table: requirement.state for requirement in subject.requirements}
    known = frozenset(column for state in by_table.values() for column in state.columns)
    # One finding for a name, whichever handlers have it: they often share their filters.
    found: dict[tuple[str, str, str], list[Handler]] = {}
    for handler in subject.handlers:
        named = {*handler.filters.unwatched_records, *handler.filters.unwatched_fields}
        if not named or not handler.of_tables:
            continue
        if handler.table is None:
            columns, where = known, "no subscribed table has"
        elif handler.table in by_table:
            columns, where = frozenset(by_table[handler.table].columns), f"{handler.table} does not have"
        else:
            continue
        missing = sorted(named - columns)
        if not by_table or not missing:
            continue
        close = {match for name in missing for match in get_close_matches(name, columns, n=1)}
        found.setdefault((", ".join(missing), where, did_you_mean(sorted(close))), []).append(handler)
    for (names, where, hint), handlers in found.items():
        yield Finding(
            "filter_columns",
            "warning",
            f"filters of {', '.join(_once(handler.name for handler in handlers))} name {names}, which {where}{hint}",
            do(
                "Correct unwatched_records= or unwatched_fields= of "
                + ", ".join(_once(handler.registration for handler in handlers))
            ),
        )


@check("no row filter drops rows")
def row_filters(subject: Subject) -> Iterator[Finding]:
    """A publication's row filter (Postgres 15): rows that it drops cause no events."""
    for requirement in subject.requirements:
        for publication in subject.schema.published_by(requirement.state):
            member = publication.member(requirement.state)
            if member is not None and member.condition is not None:
                yield Finding(
                    "row_filters",
                    "info",
                    f"publication {publication.name!r} sends only rows of {requirement.table} WHERE {member.condition}",
                )


def publishes_old_rows(publication: PublicationState) -> bool:
    """Whether updates or deletes are published, which needs a replica identity."""
    return bool(WITH_OLD_ROW & publication.operations)
