"""Checks of the producer's role, and of its replication connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from walex_celery.database.finding import Finding, do, sql
from walex_celery.database.registry import LeftOut, check
from walex_celery.errors import NoFreeSlot, WalExError
from walex_celery.operations.doctor.context import Context
from walex_celery.operations.doctor.error_finding import finding_of
from walex_celery.postgres.connection import connect_replication
from walex_celery.postgres.server import may_replicate

EXPIRES_SOON_DAYS: Final = 7
_DIRECTLY: Final = (
    "Set hostname= and port= to the server's own: a connection pooler (pgbouncer and the like) can't stream "
    "replication"
)


@check("the role may replicate")
def role_may_replicate(context: Context) -> Iterator[Finding]:
    """The REPLICATION attribute, or its equivalent in a managed service."""
    if may_replicate(context.connection, context.settings.connection_settings()):
        return
    service = context.service
    grant = (
        context.statements.grant_role(service.replication_role, context.role)
        if service is not None and service.replication_role
        else context.statements.alter_role(context.role, "REPLICATION")
    )
    yield Finding(
        "role_may_replicate", "error", f"role {context.role!r} lacks the REPLICATION attribute", sql(grant)
    )


@check("the role's password does not expire soon")
def role_expires(context: Context) -> Iterator[Finding]:
    """``VALID UNTIL``: the producer has to log in again after each restart of Postgres."""
    for (days,) in context.rows(
        "SELECT greatest(0, ceil(extract(epoch FROM rolvaliduntil - now()) / 86400))::int FROM pg_roles"
        " WHERE rolname = current_user AND rolvaliduntil < now() + make_interval(days => %s)",
        [EXPIRES_SOON_DAYS],
    ):
        yield Finding(
            "role_expires",
            "warning",
            f"the password of role {context.role!r} expires within {days} day(s): after that the producer can't "
            "connect",
            sql(context.statements.alter_role(context.role, "VALID UNTIL 'infinity'")),
        )


@check("a replication connection can be opened")
def replication_connection(context: Context) -> Iterator[Finding]:
    """Streaming needs a special connection, which pg_hba.conf, a pooler or a limit may refuse on its own."""
    if not may_replicate(context.connection, context.settings.connection_settings()):
        raise LeftOut
    try:
        connect_replication(context.settings.connection_settings()).close()
    except NoFreeSlot:
        raise LeftOut from None
    except WalExError as error:
        found = finding_of("replication_connection", "error", error)
        yield msgspec.structs.replace(found, fix=found.fix or do(_DIRECTLY))
