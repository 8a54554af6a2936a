"""``walex status``."""

from __future__ import annotations

import sys
import threading

import click
import msgspec
from celery.bin.base import CeleryOption
from rich.console import Console
from rich.live import Live

from walex_celery.app import WalEx, instances
from walex_celery.cli.base import (
    EXIT_NO_PRODUCER,
    EXIT_OK,
    NAME,
    choose,
    run_reporting,
    stop_on_signals,
    walex,
)
from walex_celery.cli.control import TIMEOUT
from walex_celery.operations.monitor.screen import render
from walex_celery.operations.monitor.status import StatusReader, StatusReport

#: Every so many looks, producers that have come since are waited for too.
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
    help="Show it live, until Ctrl-C.",
)
@click.option(
    "--interval",
    cls=CeleryOption,
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help_group="WalEx Options",
    help="Seconds between two looks, with --watch.",
)
@click.option(
    "--json",
    "as_json",
    cls=CeleryOption,
    is_flag=True,
    help_group="WalEx Options",
    help="One JSON object, or one a line with --watch; see docs/operations.md for what is in it.",
)
@click.pass_context
def status(
    ctx: click.Context, name: str | None, timeout: float, watch: bool, interval: float, as_json: bool
) -> None:
    """Tell what the producer is doing, how far it is behind, and how its slot is.

    Works with the producer away, with the broker away and with Postgres away, and says what is. Exit codes: 0 a
    producer answered, 69 none did.
    """
    code = EXIT_OK

    def run() -> None:
        nonlocal code
        chosen = choose(ctx.obj.app, name)
        with StatusReader(chosen, _registered_name(chosen), timeout=timeout) as reader:
            if watch:
                _watch(reader, interval, as_json)
                return
            report = reader.read()
            code = EXIT_OK if report.producers else EXIT_NO_PRODUCER
            if as_json:
                _print_json(report)
            else:
                _console().print(render(report))

    ctx.exit(run_reporting(run) or code)


def _registered_name(walex: WalEx) -> str:
    return next(name for name, instance in instances(walex.app).items() if instance is walex)


def _print_json(report: StatusReport) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def _console() -> Console:
    console = Console(highlight=False)
    # Not cut off at 80 columns in a file, or a log.
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
                _print_json(report)
            else:
                live.update(render(report), refresh=True)
            stopping.wait(interval)
