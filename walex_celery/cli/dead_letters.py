"""``walex dead-letters``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from walex_celery.app import WalEx
from walex_celery.cli.base import EXIT_HANDLER, EXIT_OK, NAME, choose, run_reporting, walex
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
            self.fail(f"{value!r} is no duration; one looks like 90s, 15m, 12h or 7d", param, ctx)
        return timedelta(**{_UNITS[match[2]]: int(match[1])})


_HANDLER = click.option("--handler", help="Only those of this handler, or task.")
_TABLE = click.option("--table", help="Only those with events of this table (or messages' prefix).")
_ALL = click.option("--all", "all_of_them", is_flag=True, help="All of them, or all that the options name.")
_IDS = click.argument("ids", nargs=-1, metavar="[ID]...")


@walex.group("dead-letters")
def dead_letters() -> None:
    """Events whose handler failed, put aside by on_error="dead_letter"."""


def _work(ctx: click.Context, name: str | None, step: Callable[[WalEx, DeadLetters], int | None]) -> None:
    """Do *step* with the letters, and exit with the code that it returns."""
    code = EXIT_OK

    def run() -> None:
        nonlocal code
        chosen = choose(ctx.obj.app, name)
        with open_dead_letters(chosen.settings) as letters:
            code = step(chosen, letters) or EXIT_OK

    ctx.exit(run_reporting(run) or code)


def _matching(letters: DeadLetters, handler: str | None, table: str | None) -> list[Letter]:
    return [
        letter
        for letter in letters.summaries()
        if handler in (None, letter.handler)
        and (table is None or table.replace(":", ".").removeprefix("public.") in letter.tables)
    ]


def _chosen(
    letters: DeadLetters,
    ids: Sequence[str],
    all_of_them: bool,
    handler: str | None,
    table: str | None,
) -> list[Letter]:
    """The letters that the arguments name, as the events happened."""
    if bool(ids) == all_of_them or (ids and (handler or table)):
        raise ConfigurationError(
            "name the dead letters by their ids, or say --all (of --handler, of --table)"
        )
    found = _matching(letters, handler, table)
    if all_of_them:
        return found
    unknown = sorted(set(ids) - {letter.id for letter in found})
    if unknown:
        raise ConfigurationError(f"there is no dead letter {', '.join(unknown)} in {letters.where}")
    return [letter for letter in found if letter.id in ids]


@dead_letters.command("list")
@NAME
@_HANDLER
@_TABLE
@click.option("--json", "as_json", is_flag=True, help="JSON lines.")
@click.pass_context
def list_command(
    ctx: click.Context, name: str | None, handler: str | None, table: str | None, as_json: bool
) -> None:
    """List them, without row data."""

    def step(_: WalEx, letters: DeadLetters) -> None:
        found = _matching(letters, handler, table)
        if as_json:
            for letter in found:
                click.echo(msgspec.json.encode(_summary(letter)))
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
        # Piped, nothing is cut off; on a terminal neither, for ids are to be copied.
        Console(highlight=False, soft_wrap=True, width=10_000).print(grid)
        click.echo(f"{len(found)} in {letters.where}")

    _work(ctx, name, step)


def _summary(letter: Letter) -> dict[str, Any]:
    """What may be shown of a letter unasked: of the error its type, for its text may hold row data."""
    shown = msgspec.structs.asdict(letter) | {"lsn": str(letter.lsn)}
    for hidden in ("events", "error", "traceback", "system_identifier"):
        del shown[hidden]
    return shown


@dead_letters.command("show")
@NAME
@click.option("--events", "with_events", is_flag=True, help="The events too, in full, as JSON lines.")
@click.argument("id")
@click.pass_context
def show_command(ctx: click.Context, name: str | None, with_events: bool, id: str) -> None:
    """Show one: what failed, where, and the traceback."""

    def step(_: WalEx, letters: DeadLetters) -> int | None:
        found = letters.find(id)
        if found is None:
            raise ConfigurationError(f"there is no dead letter {id} in {letters.where}")
        store, letter = found
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
            # A document of type json keeps its line breaks; between its tokens they may as well be spaces.
            line = event.replace("\r", " ").replace("\n", " ")
            sys.stdout.buffer.write(line.encode() + b"\n")
        sys.stdout.flush()
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
    """Try them again, and remove those that went well.

    The batch handler is called in this process, with the events that it failed on; a task is enqueued, with the id
    that it would have had. Letters go in the order of their events, but the stream has gone on meanwhile: what the
    handlers get now is older than what they have seen since. Two of these commands at once never run one letter
    twice. Exit code 70: some failed again.
    """

    def step(chosen: WalEx, letters: DeadLetters) -> int:
        redelivery = Redelivery(chosen, letters)
        for letter in _chosen(letters, ids, all_of_them, handler, table):
            went_well = redelivery.attempt(letter.id)
            if went_well is None:
                click.echo(f"{letter.id}  skipped: it is gone, or another process has it in hand")
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
    "--older-than", type=_Age(), help="Only those that first failed so long ago: 90s, 15m, 12h, 7d."
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
    """Remove them for good, their events with them."""

    def step(_: WalEx, letters: DeadLetters) -> None:
        found = _chosen(letters, ids, all_of_them, handler, table)
        if older_than is not None:
            found = [letter for letter in found if letter.failed_at <= datetime.now(UTC) - older_than]
        click.echo(f"{letters.discard([letter.id for letter in found])} discarded")

    _work(ctx, name, step)
