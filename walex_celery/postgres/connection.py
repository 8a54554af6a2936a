"""Connections to Postgres, and what its errors mean to us.

Two kinds: an ordinary one for the catalog and for checks, and a replication one for the stream. Both print
values in the same pinned formats, whatever the database's or the role's defaults are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import psycopg2
from psycopg2 import errorcodes, sql
from psycopg2.extensions import connection as Connection
from psycopg2.extras import LogicalReplicationConnection

from walex_celery.errors import (
    AuthenticationFailed,
    NoFreeSlot,
    PostgresUnavailable,
    PrivilegeError,
    PublicationMissing,
    SetupError,
    SlotInUse,
    SlotLost,
    WalExError,
    WalLevelError,
)
from walex_celery.settings.model import WalExSettings

#: What logical replication has needed since Postgres 14: messages among the changes, multiranges in the catalog.
OLDEST_VERSION: Final = 140000

#: What the text of values depends on; ``walex_celery.events.values`` reads no other formats.
SESSION: Final = {
    "statement_timeout": "0",  # first: a short default would cut the others off
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "lc_monetary": "C",
    "xmloption": "content",
    # regclass and its like print a name with its schema unless the path has it; type names follow the quoting.
    "search_path": "pg_catalog",
    "quote_all_identifiers": "off",
    "idle_in_transaction_session_timeout": "0",
}

_POOLER: Final = (
    "a connection pooler is in between: set hostname= and port= to Postgres' own, usually port 5432 (PgBouncer passes "
    "replication on from 1.23 on; others don't)"
)

APPLICATION_NAME: Final = "walex"


def connect(settings: WalExSettings) -> Connection:
    """An ordinary connection, in autocommit.

    Raises:
        PostgresUnavailable: the server can't be reached now.
        SetupError: it can, and says no.
    """
    connection: Connection = _connect(settings, None)
    return connection


def connect_replication(settings: WalExSettings) -> LogicalReplicationConnection:
    """A connection that speaks the streaming replication protocol; errors as :func:`connect`."""
    connection: LogicalReplicationConnection = _connect(settings, LogicalReplicationConnection)
    return connection


def _connect(settings: WalExSettings, factory: Callable[..., Connection] | None) -> Any:
    parameters: dict[str, Any] = {
        "connection_factory": factory,
        "host": settings.hostname,
        "port": settings.port,
        "dbname": settings.database,
        "user": settings.username,
        "password": settings.password.get_secret_value() if settings.password else None,
        "sslmode": settings.sslmode,
        "sslrootcert": settings.sslrootcert,
        "sslcert": settings.sslcert,
        "sslkey": settings.sslkey,
        "connect_timeout": max(1, round(settings.connect_timeout)),
        "application_name": f"{APPLICATION_NAME} {settings.name}"[:63],
        "client_encoding": "UTF8",
        # A peer that vanished without a word is noticed within about half a minute.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        # Of several hosts the one that is no standby, whichever that is by now.
        "target_session_attrs": "primary" if "," in settings.hostname else None,
        **settings.libpq,
    }
    try:
        connection = psycopg2.connect(
            **{key: value for key, value in parameters.items() if value is not None}
        )
    except psycopg2.OperationalError as error:
        raise explain_connect_error(error, settings) from None
    try:
        check_version(connection.server_version, settings)
        session = dict(SESSION)
        if factory is None:
            connection.autocommit = True
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            # Such a database holds any bytes, and Postgres refuses to send those that are not UTF-8 as if they were.
            session["client_encoding"] = "SQL_ASCII"
        with connection.cursor() as cursor:
            for name, value in session.items():
                cursor.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
    except psycopg2.Error as error:
        connection.close()
        raise explain_error(error, settings) from error
    except SetupError:
        connection.close()
        raise
    return connection


#: What a server, a pooler or libpq says when it refuses a connection: which error that is, and its mend. The first
#: that is found counts.
_REFUSALS: Final[dict[str, tuple[type[WalExError], str]]] = {
    "no password supplied": (AuthenticationFailed, "set password= or WALEX_PASSWORD"),
    "password authentication failed": (
        AuthenticationFailed,
        "set the right password= or WALEX_PASSWORD; of a producer that runs, walex.replace_config('password', ...)",
    ),
    "no pg_hba.conf entry": (
        SetupError,
        "allow the role in pg_hba.conf (a line for 'replication' is not needed: logical replication "
        "connects to the database by name), then SELECT pg_reload_conf()",
    ),
    "permission denied to start WAL sender": (
        PrivilegeError,
        "ALTER ROLE {role} REPLICATION;  (Amazon RDS: GRANT rds_replication TO {role})",
    ),
    "must be superuser or replication role": (PrivilegeError, "ALTER ROLE {role} REPLICATION;"),
    "is not permitted to log in": (SetupError, "ALTER ROLE {role} LOGIN;"),
    "permission denied for database": (SetupError, "GRANT CONNECT ON DATABASE {database} TO {role};"),
    "certificate file": (SetupError, "set sslrootcert=, sslcert= and sslkey= to files that exist"),
    # PgBouncer before 1.23, and others that don't know replication connections.
    "unsupported startup parameter": (SetupError, _POOLER),
    "support streaming replication": (SetupError, _POOLER),
    "does not exist": (SetupError, "set database= and username= to ones that exist"),
    "could not translate host name": (PostgresUnavailable, "set hostname= to the server's"),
    "certificate verify failed": (
        SetupError,
        "set sslrootcert= to the authority that signed the server's certificate",
    ),
    "max_wal_senders": (NoFreeSlot, "raise max_wal_senders in postgresql.conf and restart Postgres"),
}


def check_version(version: int, settings: WalExSettings) -> None:
    """That the server is new enough; *version* as ``server_version_num``.

    Raises:
        SetupError: it is older than :data:`OLDEST_VERSION`.
    """
    if version < OLDEST_VERSION:
        raise SetupError(
            f"Postgres at {settings.address()} is version {version // 10000}; {OLDEST_VERSION // 10000} or newer is "
            "needed\n  fix: upgrade Postgres (pg_upgrade; let the producer read everything before)"
        )


def explain_connect_error(error: psycopg2.Error, settings: WalExSettings) -> WalExError:
    """What a failed attempt to connect means. libpq gives no SQLSTATE there, only the server's words."""
    text = hide_secrets(str(error).strip(), settings)
    where = settings.address()
    names = {
        "role": quote_identifier(settings.username or "<role>"),
        "database": quote_identifier(settings.database),
    }
    for words, (kind, mend) in _REFUSALS.items():
        if words in text:
            return kind(f"can't connect to Postgres at {where}: {text}\n  fix: {mend.format(**names)}")
    return PostgresUnavailable(f"can't connect to Postgres at {where}: {text}")


def explain_error(error: psycopg2.Error, settings: WalExSettings) -> WalExError:
    """What an error of the server means: which of ours, and the line that mends it."""
    text = hide_secrets(str(error).strip(), settings)
    code = error.pgcode
    slot = settings.slot
    if code in (errorcodes.OBJECT_IN_USE, errorcodes.DUPLICATE_OBJECT):
        return SlotInUse(
            f"replication slot {slot!r} is in use ({text}): another producer runs. Stop it, start this one "
            "with --standby to wait for it, or give this instance another slot_name="
        )
    if code == errorcodes.CONFIGURATION_LIMIT_EXCEEDED:
        return NoFreeSlot(
            f"Postgres has no free replication slot ({text})\n  fix: drop one that nobody uses "
            "(SELECT slot_name, active FROM pg_replication_slots), or raise max_replication_slots and restart"
        )
    if code == errorcodes.TOO_MANY_CONNECTIONS:
        return NoFreeSlot(
            f"Postgres takes no more connections ({text})\n  fix: raise max_wal_senders and restart"
        )
    if code == errorcodes.INSUFFICIENT_PRIVILEGE:
        return privilege_error(settings.username or "<role>", f"may not replicate ({text})")
    if code == errorcodes.UNDEFINED_OBJECT:
        if 'publication "' in text:
            names = ", ".join(settings.publication)
            return PublicationMissing(
                f"publication {names} does not exist, or did not when the WAL being read was written ({text})\n"
                f"  fix: create it; if it was made after slot {slot!r}, old WAL can't be read with it: "
                f"SELECT pg_drop_replication_slot('{slot}'), start anew, and backfill what came between"
            )
        if 'replication slot "' not in text:
            return SetupError(f"Postgres at {settings.address()} says: {text}")
        return slot_gone(slot, text)
    if code == errorcodes.OBJECT_NOT_IN_PREREQUISITE_STATE:
        if "wal_level" in text:
            return wal_level_error(text)
        if "max_replication_slots" in text:
            return NoFreeSlot(
                f"Postgres has no replication slots ({text})\n  fix: ALTER SYSTEM SET max_replication_slots = 10; "
                "then restart Postgres"
            )
        if 'replication slot "' not in text:
            return SetupError(f"Postgres at {settings.address()} says: {text}")
        if "synchronized from the primary" in text:
            return PostgresUnavailable(f"{settings.address()} is a standby server: {text}")
        return slot_invalidated(slot, text)
    if code is None or code[:2] in ("08", "57", "53"):
        return PostgresUnavailable(f"the connection to Postgres at {settings.address()} broke: {text}")
    return SetupError(f"Postgres at {settings.address()} says: {text}")


def quote_identifier(name: str) -> str:
    """*name* as it stands in the SQL that an error tells people to run."""
    return '"' + name.replace('"', '""') + '"'


def privilege_error(role: str, what: str) -> PrivilegeError:
    """The error for a *role* that may not replicate."""
    quoted = quote_identifier(role)
    return PrivilegeError(
        f"role {role!r} {what}\n  fix: ALTER ROLE {quoted} REPLICATION;  "
        f"(Amazon RDS: GRANT rds_replication TO {quoted})"
    )


def slot_gone(slot: str, why: str) -> SlotLost:
    """The error for a durable slot that does not exist any more."""
    return SlotLost(
        f"replication slot {slot!r} is gone ({why}): changes since it was last read are lost to this instance\n"
        "  fix: start the producer anew, which makes the slot, and backfill what came between"
    )


#: What to do about each ``pg_replication_slots.invalidation_reason`` before the slot is made anew.
_INVALIDATIONS: Final = {
    "wal_removed": (
        "Postgres has removed WAL that it needs (max_slot_wal_keep_size)",
        "see why the producer fell behind, or raise max_slot_wal_keep_size; then",
    ),
    "idle_timeout": (
        "nobody read it for idle_replication_slot_timeout",
        "raise idle_replication_slot_timeout above the longest time without a producer; then",
    ),
    "rows_removed": (
        "rows of the catalog that it needs were removed, on a standby server",
        "set hot_standby_feedback = on there; then",
    ),
    "wal_level_insufficient": (
        "wal_level was lowered",
        "ALTER SYSTEM SET wal_level = logical, restart Postgres; then",
    ),
}


def slot_invalidated(slot: str, reason: str) -> SlotLost:
    """The error for a slot that Postgres has invalidated; *reason* as it told it."""
    why, mend = _INVALIDATIONS.get(reason, (reason, ""))
    return SlotLost(
        f"replication slot {slot!r} can't be read any more: {why}. Changes since it was last read are lost to this "
        f"instance\n  fix: {mend} SELECT pg_drop_replication_slot('{slot}'); start the producer anew, which makes the "
        "slot, and backfill what came between".replace("fix:  ", "fix: ")
    )


def wal_level_error(found: str) -> WalLevelError:
    """The error for a server whose ``wal_level`` is *found*."""
    return WalLevelError(
        f"Postgres does not log what logical replication needs ({found})\n"
        "  fix: ALTER SYSTEM SET wal_level = logical; then restart Postgres "
        "(Amazon RDS: rds.logical_replication = 1 in the parameter group)"
    )


def hide_secrets(text: str, settings: WalExSettings) -> str:
    """*text* without the settings' secrets, should a server or a library have repeated one."""
    for secret in sorted(settings.secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
