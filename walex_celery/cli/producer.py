"""``walex producer``."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import click
from celery import Celery
from celery.bin.base import LOG_LEVEL, CeleryDaemonCommand, CeleryOption, handle_preload_options
from celery.platforms import create_pidlock, maybe_drop_privileges

from walex_celery.cli.base import NAME, choose, run_reporting, stop_on_signals, walex
from walex_celery.operations.monitor.flower import Presence
from walex_celery.operations.monitor.http_server import monitoring
from walex_celery.operations.monitor.workers_know import WorkersKnow
from walex_celery.pipeline.producer import Producer
from walex_celery.telemetry.log_fields import set_up_logging

logger = logging.getLogger(__name__)


@walex.command(cls=CeleryDaemonCommand)
@NAME
@click.option(
    "--standby",
    cls=CeleryOption,
    is_flag=True,
    help_group="WalEx Options",
    help="Wait while another producer uses the slot, and take over when it is gone.",
)
@click.option(
    "--metrics-port",
    cls=CeleryOption,
    type=click.IntRange(0, 65535),
    help_group="WalEx Options",
    help="Serve /metrics, /healthz and /readyz on this port; default: the setting metrics_port.",
)
@click.option(
    "--metrics-host",
    cls=CeleryOption,
    help_group="WalEx Options",
    help="The address to listen on; default: the setting metrics_host, all of IPv4.",
)
@click.option(
    "--log-format",
    cls=CeleryOption,
    type=click.Choice(["text", "json"]),
    default="text",
    help_group="WalEx Options",
    help="Text in the worker_log_format, or one JSON object per line.",
)
@click.option(
    "-l",
    "--loglevel",
    default="INFO",
    cls=CeleryOption,
    type=LOG_LEVEL,
    help_group="WalEx Options",
    help="Logging level.",
)
@click.pass_context
@handle_preload_options
def producer(
    ctx: click.Context,
    name: str | None,
    standby: bool,
    metrics_port: int | None,
    metrics_host: str | None,
    log_format: str,
    loglevel: int,
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: str | None = None,
    gid: str | None = None,
    **_: Any,
) -> None:
    """Run the one ordered producer.

    SIGTERM and SIGINT finish the current batch, acknowledge it and exit with 0. Other exit codes: 70 a batch
    handler failed, 73 the slot is in use, 75 Postgres or the broker stayed unreachable, 78 a setting or Postgres'
    setup is wrong.
    """
    app: Celery = ctx.obj.app
    if uid or gid:
        maybe_drop_privileges(uid=uid, gid=gid)
    lock = create_pidlock(pidfile) if pidfile else None
    as_json = log_format == "json"
    set_up_logging(app, loglevel=loglevel, logfile=logfile, as_json=as_json)

    def run() -> None:
        chosen = choose(app, name)
        running = Producer(chosen, standby=standby)
        stop_on_signals(running.stop)
        port = chosen.settings.metrics_port if metrics_port is None else metrics_port
        serving = (
            nullcontext()
            if port is None
            else monitoring([running], host=metrics_host or chosen.settings.metrics_host, port=port)
        )
        with serving, Presence(app, chosen, running), WorkersKnow(app, chosen, running):
            running.run()
        logger.info(
            "stopped; everything up to %s is acknowledged",
            running.confirmed_lsn,
            extra={"lsn": str(running.confirmed_lsn)},
        )

    code = run_reporting(run, in_log=as_json)
    if lock is not None:
        lock.release()
    ctx.exit(code)
