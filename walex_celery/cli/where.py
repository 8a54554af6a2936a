"""``walex where``."""

from __future__ import annotations

import click
import msgspec

from walex_celery.cli.base import NAME, choose, echo_json_line, loaded_instances, run_reporting, walex
from walex_celery.operations.where import Origin, find_origin


@walex.command("where")
@NAME
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.argument("task_id")
@click.pass_context
def where(ctx: click.Context, name: str | None, as_json: bool, task_id: str) -> None:
    """Find the change that caused a task, by the task id that Flower shows.

    The id itself holds the WAL position and the event's index in its transaction. The function and its tables are
    looked up among the handlers, with Postgres' help.
    """

    def run() -> None:
        app = ctx.obj.app
        found = find_origin(
            app, loaded_instances(app) if name is None else {name: choose(app, name)}, task_id
        )
        if as_json:
            echo_json_line(msgspec.json.encode(found))
        else:
            _print(found)

    ctx.exit(run_reporting(run))


def _print(found: Origin) -> None:
    acknowledged = {
        True: "yes",
        False: "no: it is sent again, with the same id, when the producer restarts",
        None: None,
    }
    lines = {
        "LSN": found.lsn,
        "event": f"number {found.index} of the transaction, from 0",
        "transaction": None if found.xid is None else str(found.xid),
        "committed": found.committed,
        "function": found.function,
        "table": " or ".join(found.tables) or None,
        "instance": found.instance,
        "acknowledged": acknowledged[found.acknowledged],
    }
    for label, value in lines.items():
        if value is not None:
            click.echo(f"{label:12} {value}")
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
