"""Checks of the broker: what it may lose after confirming it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from walex_celery.broker import durability
from walex_celery.database.finding import Finding, Step, do, python, shell
from walex_celery.database.registry import check
from walex_celery.operations.doctor.context import PATIENCE_SECONDS, Context

_COMMAND = re.compile(r"CONFIG (SET|REWRITE)\b")


@check("the broker keeps what it confirms")
def broker_durability(context: Context) -> Iterator[Finding]:
    """The weaknesses that the producer logs at start, each with how to fix it."""
    for weakness in durability.examine(context.app, context.functions, timeout_seconds=PATIENCE_SECONDS):
        yield Finding(
            "broker_durability",
            weakness.severity,
            weakness.sentence.rstrip("."),
            _steps(weakness.fix, context),
        )


def _steps(fix: str, context: Context) -> tuple[Step, ...]:
    if _COMMAND.match(fix):
        if context.link.connection.transport_cls == "sentinel":
            # The address in broker_url is that of a Sentinel, which has settings of its own.
            return do(f"On the primary, in redis-cli: {fix}")
        return shell(*(f"{_redis_cli(context)} {line}" for line in fix.split("; ")))
    if fix.startswith("broker_transport_options"):
        return python(f"app.conf.{fix}")
    return do(fix) if fix else ()


def _redis_cli(context: Context) -> str:
    """The redis-cli command for the broker. Without a password: redis-cli takes it from REDISCLI_AUTH."""
    connection = context.link.connection
    if connection.transport_cls == "socket" or str(connection.as_uri()).startswith("redis+socket"):
        return f"redis-cli -s {shlex.quote('/' + str(connection.virtual_host).lstrip('/'))}"
    tls = " --tls" if connection.ssl else ""
    host = shlex.quote(str(connection.hostname or "localhost"))
    return f"redis-cli -h {host} -p {connection.port or 6379}{tls}"
