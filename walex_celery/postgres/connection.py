"""Connections to Postgres: an ordinary one for the catalog and for checks, a replication one for the stream.

Both print values in the same pinned formats, whatever the defaults of the database or the role are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extras import LogicalReplicationConnection

from walex_celery.errors import SetupError
from walex_celery.postgres.errors import explain_connect_error, explain_error
from walex_celery.postgres.parameters import ConnectionSettings
from walex_celery.postgres.refusal import examine

#: What logical replication has needed since Postgres 14: messages among the changes, multiranges in the catalog.
OLDEST_VERSION: Final = 140000

#: What a database, a role or postgresql.conf may set for a session, and must not for ours: of all parameters that any
#: user may set, those that change a value's text, end a session or a statement, or forbid something.
SESSION: Final = {
    # First, each in force from the next statement on: a short default would cut the others off.
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "exit_on_error": "off",
    # The text of values; ``walex_celery.events.values`` reads no other formats.
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "lc_monetary": "C",
    "xmlbinary": "base64",
    "xmloption": "content",
    # regclass and its like print a name with its schema unless the path has it; type names follow the quoting.
    "search_path": "pg_catalog",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "client_min_messages": "notice",
    # What a transaction of ours may do, and sees.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "row_security": "on",
    # A dead letter is on the disk before its event is acknowledged. It waits for no standby server, which the producer
    # itself may be (synchronous_standby_names = '*').
    "synchronous_commit": "local",
    # Compiling a query on the catalog takes longer than the query.
    "jit": "off",
}

#: Parameters that not all supported majors have.
_SINCE: Final = {"transaction_timeout": 170000}

#: Postgres cuts longer names off, with a notice.
_MAX_NAME_BYTES: Final = 63


def connect(settings: ConnectionSettings) -> Connection:
    """An ordinary connection, in autocommit.

    Raises:
        PostgresUnavailable: the server can't be reached now.
        SetupError: it can be reached, and refuses.
    """
    connection: Connection = _connect(settings, None)
    return connection


def connect_replication(settings: ConnectionSettings) -> LogicalReplicationConnection:
    """A connection that speaks the streaming replication protocol; errors as :func:`connect`."""
    connection: LogicalReplicationConnection = _connect(settings, LogicalReplicationConnection)
    return connection


def _connect(settings: ConnectionSettings, factory: Callable[..., Connection] | None) -> Any:
    parameters = _parameters(settings)
    try:
        connection = psycopg2.connect(connection_factory=factory, **parameters)
    except psycopg2.OperationalError as error:
        # Its traceback keeps the failed connection, and its socket, open.
        error.__traceback__ = None
        # Not chained: the error's own text may have a secret in it.
        raise explain_connect_error(
            error, settings, partial(examine, parameters, factory, settings.connect_timeout)
        ) from None
    try:
        check_version(connection.server_version, settings)
        if factory is None:
            connection.autocommit = True
        _pin_session(connection)
    except psycopg2.Error as error:
        connection.close()
        raise explain_error(error, settings) from error
    except SetupError:
        connection.close()
        raise
    return connection


def _parameters(settings: ConnectionSettings) -> dict[str, Any]:
    """Connection parameters by libpq's names (manual, section 32.1.2)."""
    parameters: dict[str, Any] = {
        "host": ",".join(host for host, _ in settings.hosts),
        "port": ",".join(str(port) for _, port in settings.hosts),
        "dbname": settings.database,
        "user": settings.user,
        "password": settings.password,
        "sslmode": settings.sslmode,
        "sslrootcert": settings.sslrootcert,
        "sslcert": settings.sslcert,
        "sslkey": settings.sslkey,
        "connect_timeout": max(1, round(settings.connect_timeout)),
        "application_name": settings.application_name[:_MAX_NAME_BYTES],
        "client_encoding": "UTF8",
        # A peer that vanishes silently is noticed within about half a minute.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        # Of several hosts, the one that is no standby at the moment.
        "target_session_attrs": "primary" if len(settings.hosts) > 1 else None,
        **settings.libpq,
    }
    return {name: value for name, value in parameters.items() if value is not None}


def _pin_session(connection: Connection) -> None:
    session = dict(SESSION)
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        # Such a database holds any bytes, and Postgres refuses to send bytes that are not UTF-8 as UTF-8.
        session["client_encoding"] = "SQL_ASCII"
    version = connection.server_version
    statements = [
        sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in session.items()
        if version >= _SINCE.get(name, 0)
    ]
    with connection.cursor() as cursor:
        # Together: a round trip each would take longer than all of them.
        cursor.execute(sql.SQL("; ").join(statements))


def check_version(version: int, settings: ConnectionSettings) -> None:
    """That the server is new enough; *version* as ``server_version_num``.

    Raises:
        SetupError: it is older than :data:`OLDEST_VERSION`.
    """
    if version < OLDEST_VERSION:
        raise SetupError(
            f"Postgres at {settings.address()} is version {version // 10000}; {OLDEST_VERSION // 10000} or newer is "
            "needed\n  fix: upgrade Postgres (pg_upgrade; let the producer read everything before)"
        )
