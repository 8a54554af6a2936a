"""Checks of replica identity: what updates and deletes carry of the old row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from walex_celery.database.changes import identity_changes, not_full
from walex_celery.database.finding import Finding, Severity, sql
from walex_celery.database.publication import publishes_old_rows
from walex_celery.database.registry import check
from walex_celery.database.subject import Subject
from walex_celery.handlers.kinds import UPDATE

_NOT_SENT: Final = (
    "a TOASTed (large) value that an update did not change is absent from event.new_record "
    "(reading it is a KeyError)"
)


@check("updates and deletes carry the old values that filters need")
def old_values(subject: Subject) -> Iterator[Finding]:
    """The replica identity of each table and its partitions, compared with what handlers need."""
    for requirement in subject.requirements:
        if not (requirement.by_filters or requirement.by_changes):
            continue
        lacking = not_full(requirement, subject.schema)
        if not lacking:
            continue
        where = str(requirement.table)
        if requirement.state not in lacking:
            where += f"'s partitions {', '.join(str(state.table) for state in lacking)}"
        severity: Severity = "warning" if requirement.by_filters else "info"
        if requirement.by_filters:
            lost = f"so {'; '.join(requirement.by_filters)} drop nothing"
            if UPDATE.name in requirement.types:
                lost += f", and {_NOT_SENT}"
        else:
            lost = f"so event.changes is None, {_NOT_SENT}, and a deleted row is only its key, for "
            lost += ", ".join(requirement.by_changes)
        sentence = f"the replica identity of {where} is not FULL: old values are missing, {lost}"
        changes = identity_changes(requirement, subject.schema, subject.statements)
        yield Finding("old_values", severity, sentence, sql(*(change.sql for change in changes)))


@check("Postgres accepts updates and deletes of the published tables")
def updates_accepted(subject: Subject) -> Iterator[Finding]:
    """Postgres refuses updates of a published table that has no replica identity."""
    schema = subject.schema
    for state in schema.tables.values():
        if state.partitioned or state.persistence != "p" or state.can_be_updated:
            continue
        names = [found.name for found in schema.published_by(state) if publishes_old_rows(found)]
        if names:
            yield Finding(
                "updates_accepted",
                "error",
                f"{state.table} has no replica identity, and publication {names[0]!r} publishes updates and deletes: "
                "Postgres refuses its UPDATE and DELETE to everyone",
                sql(subject.statements.identity_full(state)),
            )
