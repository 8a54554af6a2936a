"""``walex doctor``."""

from __future__ import annotations

import logging
import sys
from typing import Final

import click
from rich.console import Console

from walex_celery._invocation import celery_command
from walex_celery.cli.base import NAME, choose, registered_name, run_reporting, walex
from walex_celery.operations.doctor import Finding, Severity, examine, worst
from walex_celery.operations.doctor.report import render_json, render_text

#: By the worst finding, as in monitoring plugins.
EXIT_CODES: Final[dict[Severity, int]] = {"ok": 0, "info": 0, "warning": 1, "error": 2}


@walex.command("doctor")
@NAME
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--all", "every", is_flag=True, help="Also print what is fine.")
@click.pass_context
def doctor_command(ctx: click.Context, name: str | None, as_json: bool, every: bool) -> None:
    """Find what is wrong, or will go wrong, and print how to fix it.

    Changes nothing. Exit codes: 0 nothing to fix, 1 warnings, 2 errors, 78 no such WalEx.
    """
    findings: list[Finding] = []

    def work() -> None:
        application = choose(ctx.obj.app, name)
        label = registered_name(application)
        # How tasks will be published is logged by the producer when it starts; here it would be noise.
        log = logging.getLogger("walex_celery")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            findings.extend(examine(application, celery_command()))
        finally:
            log.setLevel(level)
        if as_json:
            sys.stdout.buffer.write(render_json(label, findings) + b"\n")
            return
        console = Console(highlight=False, soft_wrap=True)
        for line in render_text(label, findings, every=every, encoding=console.encoding):
            console.print(line)

    ctx.exit(run_reporting(work) or EXIT_CODES[worst(findings)])
