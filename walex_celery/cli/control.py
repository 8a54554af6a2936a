"""``walex control``, and ``walex config``, short for ``walex control config``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click
from celery import Celery
from celery.bin.base import CeleryOption

from walex_celery.cli.base import EXIT_ERROR, EXIT_NO_PRODUCER, EXIT_OK, NAME, exit_code, walex
from walex_celery.errors import WalExError
from walex_celery.operations.remote.ask import ANSWER_SECONDS, Reply, ask
from walex_celery.settings.changes import LIST_KEYS
from walex_celery.telemetry.progress import human_bytes

_GROUP = "Remote Control Options"
TIMEOUT = click.option(
    "-t",
    "--timeout",
    cls=CeleryOption,
    type=click.FloatRange(min=0.1),
    default=ANSWER_SECONDS,
    show_default=True,
    help_group=_GROUP,
    help="Seconds to wait for answers.",
)
DESTINATION = click.option(
    "-d",
    "--destination",
    cls=CeleryOption,
    multiple=True,
    help_group=_GROUP,
    help="A node to ask, by its name in 'walex status'. Repeatable. Default: all nodes of the instance.",
)


@walex.group()
def control() -> None:
    """Pause, resume or shut down running producers, or reload their settings.

    Uses Celery's remote control, through the broker. Exit codes: 0 all did it, 1 one refused, 69 none answered,
    75 the broker is unreachable.
    """


def _simple(command: str, text: str) -> None:
    @control.command(command, help=text)
    @NAME
    @DESTINATION
    @TIMEOUT
    @click.pass_context
    def run(ctx: click.Context, name: str | None, destination: tuple[str, ...], timeout: float) -> None:
        ctx.exit(send(ctx.obj.app, command, name, destination, timeout))


_simple(
    "pause",
    "Stop reading at the next transaction boundary. The slot stays in use, and Postgres keeps WAL meanwhile.",
)
_simple("resume", "Resume after a pause.")
_simple("shutdown", "Finish the current batch, acknowledge it and exit, as on SIGTERM.")
_simple(
    "reload",
    "Reload the settings from the environment, .env and app.conf. Use it to change a password: passwords are never "
    "sent through the broker.",
)


@control.command("status")
@NAME
@DESTINATION
@TIMEOUT
@click.pass_context
def control_status(
    ctx: click.Context, name: str | None, destination: tuple[str, ...], timeout: float
) -> None:
    """Show in one line what each producer is doing; 'walex status' has the details."""
    ctx.exit(send(ctx.obj.app, "status", name, destination, timeout, show=_one_line))


def _one_line(answer: Any) -> str:
    if answer is None:
        return "starting"
    lag = answer["lag"]["bytes"]
    behind = "lag unknown" if lag is None else f"{human_bytes(lag)} behind"
    return f"{answer['state']}, {behind}, {answer['tasks']} tasks"


@click.group()
def config() -> None:
    """Change a setting of running producers from the next transaction boundary until they exit.

    Secrets, and settings that decide where secrets are sent, never go through the broker: change them where the
    producer reads them, then run 'walex control reload'.
    """


control.add_command(config)
walex.add_command(config)


def _changing(action: str, text: str) -> None:
    @config.command(action, help=text)
    @click.argument("key")
    @click.argument("values", nargs=-1, required=True)
    @NAME
    @DESTINATION
    @TIMEOUT
    @click.pass_context
    def run(
        ctx: click.Context,
        key: str,
        values: tuple[str, ...],
        name: str | None,
        destination: tuple[str, ...],
        timeout: float,
    ) -> None:
        value: Any = list(values)
        if key not in LIST_KEYS:
            if len(values) > 1:
                raise click.UsageError(f"{key} takes one value")
            value = values[0]
        ctx.exit(send(ctx.obj.app, "config", name, destination, timeout, action=action, key=key, value=value))


_changing("add", "Add VALUES to KEY: subscriptions or publication.")
_changing("remove", "Remove VALUES from KEY: subscriptions or publication.")
_changing("replace", "Set KEY to VALUES; also for database, slot_name, durable_slot, failover and on_error.")


def send(
    app: Celery,
    command: str,
    name: str | None,
    destination: Sequence[str],
    timeout: float,
    *,
    show: Callable[[Any], str] = str,
    **arguments: Any,
) -> int:
    """Send *command*, print the answers, and return the exit code."""
    try:
        replies = ask(app, command, name=name, destination=destination, timeout=timeout, **arguments)
    except WalExError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        return exit_code(error)
    for reply in replies:
        _print(reply, show)
    missing = sorted(set(destination) - {reply.node for reply in replies})
    if missing or not replies:
        click.echo(no_answer(timeout, missing), err=True)
        return EXIT_NO_PRODUCER
    return EXIT_ERROR if any(reply.error for reply in replies) else EXIT_OK


def _print(reply: Reply, show: Callable[[Any], str]) -> None:
    if reply.error is not None:
        click.echo(f"{reply.node}: refused: {reply.error}", err=True)
    else:
        click.echo(f"{reply.node}: {show(reply.answer)}")


def no_answer(timeout: float, missing: Sequence[str] = ()) -> str:
    """Why there may be no answer."""
    who = f"{', '.join(missing)} did not answer" if missing else "no producer answered"
    return (
        f"{who} within {timeout:g} s: it is not running, can't reach this broker, has "
        "worker_enable_remote_control = False, or has another --name. 'walex status' shows whether the slot is in use"
    )
