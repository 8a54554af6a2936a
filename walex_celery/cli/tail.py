"""``walex tail``."""

from __future__ import annotations

import sys
import threading

import click
from rich.console import Console

from walex_celery.cli.base import NAME, choose, echo_json_line, run_reporting, stop_on_signals, walex
from walex_celery.operations.tail import render_event, tail


@walex.command("tail")
@NAME
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many events.")
@click.option(
    "--json/--text", "as_json", default=None, help="JSON lines, or text; default: text on a terminal."
)
@click.argument("tables", nargs=-1)
@click.pass_context
def tail_command(
    ctx: click.Context, name: str | None, limit: int | None, as_json: bool | None, tables: tuple[str, ...]
) -> None:
    """Print events as they happen: those of TABLES, or of all subscribed tables.

    Uses a temporary slot of its own: nothing is acknowledged for the producer, no handler runs.
    """
    stopping = threading.Event()
    console = Console(highlight=False, soft_wrap=True)
    as_text = sys.stdout.isatty() if as_json is None else not as_json

    def started() -> None:
        click.echo("following; press Ctrl-C to stop", err=True)

    def run() -> None:
        stop_on_signals(stopping.set)
        settings = choose(ctx.obj.app, name).settings
        events = tail(settings, tables, stopping, started=started)
        for number, event in enumerate(events, 1):
            if as_text:
                console.print(render_event(event))
            else:
                echo_json_line(event.to_json())
            if number == limit:
                events.close()  # type: ignore[attr-defined]
                break

    ctx.exit(run_reporting(run))
