"""Checks of replica identity: what updates and deletes tell of the old row."""

from __future__ import annotations

from collections.abc import Iterator

from walex_celery.operations.doctor.context import Context
from walex_celery.operations.doctor.finding import Finding, Severity, sql
from walex_celery.operations.doctor.publication import publishes_old_rows
from walex_celery.operations.doctor.registry import check
from walex_celery.operations.setup.changes import fit_identity, not_full


@check("updates and deletes tell the old values that filters need")
def old_values(context: Context) -> Iterator[Finding]:
    """Replica identity against filters, of the table and of each of its partitions."""
    for need in context.needs:
        if not (need.by_filters or need.by_changes):
            continue
        lacking = not_full(need, context.schema)
        if not lacking:
            continue
        where = str(need.table)
        if need.state not in lacking:
            where += f"'s partitions {', '.join(str(state.table) for state in lacking)}"
        severity: Severity = "warning" if need.by_filters else "info"
        lost = (
            f"so {'; '.join(need.by_filters)} drop nothing"
            if need.by_filters
            else f"so event.changes is None, and a deleted row is its key, for {', '.join(need.by_changes)}"
        )
        sentence = f"the replica identity of {where} is not FULL: no old values are told, {lost}"
        fits = fit_identity(need, context.schema, context.statements)
        yield Finding("old_values", severity, sentence, sql(*(fit.sql for fit in fits)))


@check("Postgres accepts updates and deletes of the published tables")
def updates_accepted(context: Context) -> Iterator[Finding]:
    """A published table without any replica identity can't be updated: Postgres refuses it to the application."""
    schema = context.schema
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
                sql(context.statements.identity_full(state)),
            )
