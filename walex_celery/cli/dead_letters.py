"""``walex dead-letters``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from walex_celery.app import WalEx
from walex_celery.cli.base import EXIT_HANDLER, EXIT_OK, NAME, choose, echo_json_line, run_reporting, walex
from walex_celery.dead_letters import DeadLetters, Letter, open_dead_letters
from walex_celery.errors import ConfigurationError
from walex_celery.events.event import printable
from walex_celery.operations.redelivery import Redelivery

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class _Age(click.ParamType):  # type: ignore[type-arg]
    """A duration such as 90s, 15m, 12h or 7d."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        match = re.fullmatch(r"(\d{1,6})([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration such as 90s, 15m, 12h or 7d", param, ctx)
        return timedelta(**{_UNITS[match[2]]: int(match[1])})


_HANDLER = click.option("--handler", help="Only dead letters of this handler or task.")
_TABLE = click.option("--table", help="Only dead letters with events of this table (or message prefix).")
_ALL = click.option("--all", "all_of_them", is_flag=True, help="All, or all that match the other options.")
_IDS = click.argument("ids", nargs=-1, metavar="[ID]...")


@walex.group("dead-letters")
def dead_letters() -> None:
    """Events whose handler failed, stored by on_error="dead_letter"."""


def _work(ctx: click.Context, name: str | None, step: Callable[[WalEx, DeadLetters], int | None]) -> None:
    """Run *step* with the dead letters, and exit with the code that it returns."""
    code = EXIT_OK

    def run() -> None:
        nonlocal code
        chosen = choose(ctx.obj.app, name)
        with open_dead_letters(chosen.settings) as letters:
            code = step(chosen, letters) or EXIT_OK

    ctx.exit(run_reporting(run) or code)


def _chosen(
    letters: DeadLetters,
    ids: Sequence[str],
    all_of_them: bool,
    handler: str | None,
    table: str | None,
) -> list[Letter]:
    """The letters that the arguments name, in the order of the events."""
    if bool(ids) == all_of_them or (ids and (handler or table)):
        raise ConfigurationError("name the dead letters by their ids, or use --all (with --handler, --table)")
    return letters.matching(handler, table) if all_of_them else letters.named(ids)


@dead_letters.command("list")
@NAME
@_HANDLER
@_TABLE
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
@click.pass_context
def list_command(
    ctx: click.Context, name: str | None, handler: str | None, table: str | None, as_json: bool
) -> None:
    """List dead letters, without row data."""

    def step(_: WalEx, letters: DeadLetters) -> None:
        found = letters.matching(handler, table)
        if as_json:
            for letter in found:
                click.echo(msgspec.json.encode(letter.summary()))
            return
        if not found:
            click.echo(f"no dead letters in {letters.where}")
            return
        grid = Grid(box=None, pad_edge=False)
        for column in ("id", "failed at (UTC)", "handler", "tables", "events", "error", "tries", "lsn"):
            grid.add_column(
                column, no_wrap=True, justify="right" if column in ("events", "tries") else "left"
            )
        for letter in found:
            cells = (
                letter.id,
                f"{letter.failed_at:%Y-%m-%d %H:%M:%S}",
                letter.handler,
                ", ".join(letter.tables),
                str(letter.event_count),
                letter.error_type,
                str(letter.tries),
                str(letter.lsn),
            )
            grid.add_row(*(Text(printable(cell)) for cell in cells))
        # Never truncated, so that ids can be copied from a terminal and grepped in a pipe.
        Console(highlight=False, soft_wrap=True, width=10_000).print(grid)
        click.echo(f"{len(found)} in {letters.where}")

    _work(ctx, name, step)


@dead_letters.command("show")
@NAME
@click.option("--events", "with_events", is_flag=True, help="Also print the events in full, as JSON lines.")
@click.argument("id")
@click.pass_context
def show_command(ctx: click.Context, name: str | None, with_events: bool, id: str) -> None:
    """Show one dead letter: what failed, where, and the traceback."""

    def step(_: WalEx, letters: DeadLetters) -> int | None:
        store, letter = letters.find(id)
        for label, value in (
            ("id", letter.id),
            ("stored in", store.where),
            ("handler", f"{letter.handler} {letter.registration}".rstrip()),
            ("task id", letter.task_id),
            (
                "transaction",
                f"{letter.xid}, LSN {letter.lsn}, committed {letter.committed_at:%Y-%m-%d %H:%M:%S %Z}",
            ),
            ("events", f"{letter.event_count}, the first at {letter.index}, of {', '.join(letter.tables)}"),
            ("first failed", f"{letter.failed_at:%Y-%m-%d %H:%M:%S %Z}"),
            ("last tried", f"{letter.tried_at:%Y-%m-%d %H:%M:%S %Z} (try {letter.tries})"),
        ):
            if value:
                click.echo(f"{label + ':':<14}{printable(value)}")
        click.echo("\n" + "\n".join(map(printable, letter.traceback.splitlines())))
        for event in letter.events if with_events else ():
            echo_json_line(event.encode())
        return None

    _work(ctx, name, step)


@dead_letters.command("retry")
@NAME
@_HANDLER
@_TABLE
@_ALL
@_IDS
@click.pass_context
def retry_command(
    ctx: click.Context,
    name: str | None,
    handler: str | None,
    table: str | None,
    all_of_them: bool,
    ids: tuple[str, ...],
) -> None:
    """Retry dead letters, and remove those that succeed.

    A batch handler is called in this process, with the events that it failed on. A task is enqueued, with the id
    that it would have had. Letters are retried in the order of their events, but the stream has moved on: handlers
    now get events older than those they have seen since. Two retries at once never run the same letter twice. Exit
    code 70: some failed again.
    """

    def step(chosen: WalEx, letters: DeadLetters) -> int:
        redelivery = Redelivery(chosen, letters)
        for letter in _chosen(letters, ids, all_of_them, handler, table):
            went_well = redelivery.attempt(letter.id)
            if went_well is None:
                click.echo(f"{letter.id}  skipped: it is gone, or another process is retrying it")
            elif went_well:
                click.echo(f"{letter.id}  done: {letter.event_count} event(s) of {letter.handler}")
            else:
                failed = redelivery.failures[letter.id]
                click.echo(f"{letter.id}  failed again: {failed.error_type} (try {failed.tries})")
        return EXIT_HANDLER if redelivery.failures else EXIT_OK

    _work(ctx, name, step)


@dead_letters.command("discard")
@NAME
@_HANDLER
@_TABLE
@_ALL
@click.option(
    "--older-than",
    type=_Age(),
    help="Only those that first failed at least this long ago: 90s, 15m, 12h, 7d.",
)
@_IDS
@click.pass_context
def discard_command(
    ctx: click.Context,
    name: str | None,
    handler: str | None,
    table: str | None,
    all_of_them: bool,
    older_than: timedelta | None,
    ids: tuple[str, ...],
) -> None:
    """Delete dead letters for good, with their events."""

    def step(_: WalEx, letters: DeadLetters) -> None:
        found = _chosen(letters, ids, all_of_them, handler, table)
        if older_than is not None:
            found = [letter for letter in found if letter.failed_at <= datetime.now(UTC) - older_than]
        click.echo(f"{letters.discard([letter.id for letter in found])} discarded")

    _work(ctx, name, step)
