"""Checks of dead letters: whether they can be stored, and whether any are waiting."""

from __future__ import annotations

from collections.abc import Iterator

from walex_celery.database.changes import dead_letter_changes, dead_letters_are_used
from walex_celery.database.finding import Finding, shell, sql
from walex_celery.database.registry import LeftOut, check
from walex_celery.dead_letters import TABLE, open_dead_letters
from walex_celery.operations.doctor.context import Context


@check("dead letters can be stored")
def dead_letter_table(context: Context) -> Iterator[Finding]:
    """Whether the producer's role can use ``walex.dead_letters``, if a handler's failures go there."""
    if not dead_letters_are_used(context.settings, context.handlers):
        raise LeftOut
    changes = dead_letter_changes(context.connection, context.role, context.statements)
    if not changes:
        return
    required = context.settings.dead_letters == "postgres"
    yield Finding(
        "dead_letter_table",
        "error" if required else "info",
        f"role {context.role!r} can't write to {TABLE}, "
        + (
            "which dead_letters= names"
            if required
            else "so that dead letters go to a file on the producer's host"
        ),
        sql(*(change.sql for change in changes)),
    )


@check("no dead letters are waiting")
def dead_letters(context: Context) -> Iterator[Finding]:
    """Events whose handler failed, waiting to be retried or discarded."""
    with open_dead_letters(context.settings) as letters:
        count, where = letters.count(), letters.where
    if count:
        yield Finding(
            "dead_letters",
            "warning",
            f"{count} dead letter{'s wait' if count > 1 else ' waits'} in {where}: events whose handler failed",
            shell(f"{context.command} walex dead-letters list"),
        )
