"""``walex setup``."""

from __future__ import annotations

import sys

import click

from walex_celery.cli.base import NAME, choose, run_reporting, walex
from walex_celery.database.changes import Change
from walex_celery.events.event import printable
from walex_celery.operations.setup.plan import (
    ADMIN_URL_VARIABLE,
    Identity,
    Question,
    administrator,
    check_wal_level,
    plan,
    run,
)
from walex_celery.postgres.connection import connect


@walex.command("setup")
@NAME
@click.option("--dry-run", is_flag=True, help="Print the SQL without running it.")
@click.option(
    "--replica-identity",
    type=click.Choice(["full", "default", "ask"]),
    default="ask",
    show_default=True,
    help="For tables whose old values handlers need: set FULL, leave as is, or ask on a terminal.",
)
@click.option("--yes", is_flag=True, help="Answer yes to every question.")
@click.option(
    "--url",
    envvar=ADMIN_URL_VARIABLE,
    help=f"Connect as this role instead of the producer's; better set in {ADMIN_URL_VARIABLE}.",
)
@click.pass_context
def setup_command(
    ctx: click.Context,
    name: str | None,
    dry_run: bool,
    replica_identity: Identity,
    yes: bool,
    url: str | None,
) -> None:
    """Set up the database for the application: publication, replica identity, durable slot.

    Prints each statement, then runs it. What is already right is left alone, nothing is ever dropped, and a
    second run finds nothing to do. The output is SQL: with --dry-run, someone else can run it.
    """

    def decide(question: Question) -> bool:
        if replica_identity != "ask":
            return replica_identity == "full"
        if yes:
            return True
        if not sys.stdin.isatty():
            return False
        return click.confirm(f"{question.sentence}\nSet it?", default=question.advised, err=True)

    def work() -> None:
        application = choose(ctx.obj.app, name)
        application.import_modules()
        settings = administrator(application.settings, url)
        connection = connect(settings.connection_settings())
        try:
            found = plan(
                connection, settings, application.handlers, decide=decide, role=application.settings.username
            )
            for note in found.notes:
                click.echo(f"-- note: {printable(note)}")
            if not found.changes:
                click.echo("-- nothing to do")
            elif dry_run:
                for change in found.changes:
                    _show(change)
            else:
                if settings.durable_slot:
                    check_wal_level(connection)
                run(
                    connection,
                    settings,
                    found.changes,
                    started=_show,
                )
                click.echo("-- done")
        finally:
            connection.close()

    ctx.exit(run_reporting(work))


def _show(change: Change) -> None:
    # A table's name may hold a line break, which would end the comment, or escape sequences.
    sql = "\n".join(map(printable, change.sql.split("\n")))
    click.echo(f"-- {printable(change.why)}\n{sql}")
