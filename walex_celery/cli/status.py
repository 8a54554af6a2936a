"""``walex status``."""

from __future__ import annotations

import threading

import click
import msgspec
from celery.bin.base import CeleryOption
from rich.console import Console
from rich.live import Live

from walex_celery.cli.base import (
    EXIT_NO_PRODUCER,
    EXIT_OK,
    NAME,
    choose,
    echo_json_line,
    registered_name,
    run_reporting,
    stop_on_signals,
    walex,
)
from walex_celery.cli.control import TIMEOUT
from walex_celery.operations.monitor.screen import render
from walex_celery.operations.monitor.status import StatusReader

#: One read in this many waits the whole timeout, to see producers that started since.
_LOOK_FOR_OTHERS = 10


@walex.command("status")
@NAME
@TIMEOUT
@click.option(
    "-w",
    "--watch",
    cls=CeleryOption,
    is_flag=True,
    help_group="WalEx Options",
    help="Refresh until Ctrl-C.",
)
@click.option(
    "--interval",
    cls=CeleryOption,
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help_group="WalEx Options",
    help="Seconds between refreshes, with --watch.",
)
@click.option(
    "--json",
    "as_json",
    cls=CeleryOption,
    is_flag=True,
    help_group="WalEx Options",
    help="One JSON object, or one per line with --watch; docs/operations/status.md describes it.",
)
@click.pass_context
def status(
    ctx: click.Context, name: str | None, timeout: float, watch: bool, interval: float, as_json: bool
) -> None:
    """Show what the producer is doing, how far behind it is, and the state of its slot.

    Works while the producer, the broker or Postgres is down, and shows what is known. Exit codes: 0 a producer
    answered, 69 none did.
    """
    code = EXIT_OK

    def run() -> None:
        nonlocal code
        chosen = choose(ctx.obj.app, name)
        with StatusReader(chosen, registered_name(chosen), timeout=timeout) as reader:
            if watch:
                _watch(reader, interval, as_json)
                return
            report = reader.read()
            code = EXIT_OK if report.producers else EXIT_NO_PRODUCER
            if as_json:
                echo_json_line(msgspec.json.encode(report))
            else:
                _console().print(render(report))

    ctx.exit(run_reporting(run) or code)


def _console() -> Console:
    console = Console(highlight=False)
    # Files and logs are not truncated to 80 columns.
    return console if console.is_terminal else Console(highlight=False, width=120)


def _watch(reader: StatusReader, interval: float, as_json: bool) -> None:
    stopping = threading.Event()
    stop_on_signals(stopping.set)
    looks, known = 0, 0
    console = _console()
    with Live(console=console, auto_refresh=False, screen=False, transient=False) as live:
        while not stopping.is_set():
            report = reader.read(expected=known if known and looks % _LOOK_FOR_OTHERS else None)
            looks, known = looks + 1, len(report.producers)
            if as_json:
                echo_json_line(msgspec.json.encode(report))
            else:
                live.update(render(report), refresh=True)
            stopping.wait(interval)
