"""What all commands share: the group, choosing the WalEx, signals, errors and their exit codes."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

import click
from celery import Celery
from celery.bin.base import CeleryOption

from walex_celery.app import WalEx, instances, load_celery_modules
from walex_celery.errors import (
    ConfigurationError,
    HandlerError,
    PublishRefused,
    RetryableError,
    SetupError,
    SlotInUse,
    WalExError,
)

logger = logging.getLogger(__name__)

#: Exit codes; those of sysexits.h where it has a fitting one.
EXIT_OK: Final = 0
EXIT_HANDLER: Final = 70  # a batch handler failed: EX_SOFTWARE
EXIT_NO_PRODUCER: Final = 69  # none answered: EX_UNAVAILABLE
EXIT_SLOT_IN_USE: Final = 73
EXIT_GAVE_UP: Final = 75  # Postgres or the broker stayed unreachable: EX_TEMPFAIL
EXIT_CONFIGURATION: Final = 78  # a setting, or Postgres' setup, is wrong: EX_CONFIG
EXIT_ERROR: Final = 1


def exit_code(error: WalExError) -> int:
    """The exit code for what ended the producer."""
    if isinstance(error, SlotInUse):
        return EXIT_SLOT_IN_USE
    if isinstance(error, ConfigurationError | SetupError):
        return EXIT_CONFIGURATION
    if isinstance(error, HandlerError):
        return EXIT_HANDLER
    return EXIT_GAVE_UP if isinstance(error, RetryableError | PublishRefused) else EXIT_ERROR


#: The module of each command.
_COMMANDS: Final = {
    "config": "walex_celery.cli.control",
    "control": "walex_celery.cli.control",
    "dead-letters": "walex_celery.cli.dead_letters",
    "doctor": "walex_celery.cli.doctor",
    "producer": "walex_celery.cli.producer",
    "setup": "walex_celery.cli.setup",
    "status": "walex_celery.cli.status",
    "tail": "walex_celery.cli.tail",
    "where": "walex_celery.cli.where",
}


class _Commands(click.Group):
    """A group whose commands are imported when they are asked for.

    Celery loads the group in every ``celery`` process, and a worker must not load the producer with it.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            import_module(_COMMANDS[cmd_name])  # it adds itself to the group
        return super().get_command(ctx, cmd_name)


@click.group("walex", cls=_Commands)
def walex() -> None:
    """Postgres change data capture: turn committed changes into tasks."""


_LINE_BREAKS_TO_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")


#: ``--name``, for commands that work on one WalEx.
NAME = click.option(
    "--name",
    cls=CeleryOption,
    help_group="WalEx Options",
    help="Which WalEx, if the application has several.",
)


def loaded_instances(app: Celery, name: str | None = None) -> dict[str, WalEx]:
    """The WalEx objects of *app*, by name, after importing the modules that Celery loads.

    One of those may make the WalEx, and with Django's fixup nothing of Django works before. What they raise is raised
    if there is no WalEx, or none named *name*. Otherwise commands that need the handlers raise it when they ask for
    them, and the others, such as ``status``, work.
    """
    try:
        load_celery_modules(app)
    except Exception:
        found = instances(app)
        if not found or (name is not None and name not in found):
            raise
    return instances(app)


def choose(app: Celery, name: str | None) -> WalEx:
    """The WalEx of *app* that ``--name`` names, or the only one.

    Raises:
        ConfigurationError: there is none, or several and no *name*.
    """
    found = loaded_instances(app, name)
    if not found:
        raise ConfigurationError(
            f"the Celery application {app.main!r} has no WalEx; add to its module:\n"
            '  walex = WalEx(app, url="postgresql://...", publication="events", subscriptions=[...])'
        )
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name not in found:
        raise ConfigurationError(f"choose a WalEx with --name: {', '.join(sorted(found))}")
    return found[name]


def registered_name(walex: WalEx) -> str:
    """The name that *walex* has in its application."""
    return next(name for name, instance in instances(walex.app).items() if instance is walex)


def echo_json_line(document: bytes) -> None:
    """Print a JSON document as one line.

    A column of type json keeps the line breaks between its tokens, where spaces mean the same.
    """
    sys.stdout.buffer.write(document.translate(_LINE_BREAKS_TO_SPACES) + b"\n")
    sys.stdout.buffer.flush()


def stop_on_signals(stop: Callable[[], Any]) -> None:
    """Call *stop* on the first SIGTERM or SIGINT; a second one ends the process at once."""

    def handle(number: int, _: Any) -> None:
        logger.info("%s: finishing the current batch", signal.Signals(number).name)
        stop()
        # The second signal kills, for users who can't wait.
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def run_reporting(run: Callable[[], None], *, in_log: bool = False) -> int:
    """Run, and return the exit code. An error is printed readably, or logged if *in_log*."""
    try:
        run()
    except WalExError as error:
        if in_log:
            # A HandlerError has its traceback in its fields, with secrets removed.
            cause = None if isinstance(error, HandlerError) else error.__cause__ or error
            logger.critical("%s", error, exc_info=cause, extra=error.fields)
            return exit_code(error)
        if isinstance(error, HandlerError):
            click.echo(error.traceback, err=True)
        click.echo(f"{type(error).__name__}: {error}", err=True)
        return exit_code(error)
    return EXIT_OK
