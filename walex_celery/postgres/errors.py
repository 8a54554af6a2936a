"""What the errors of Postgres mean to us: which of ours, and how to fix it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

import psycopg2
from psycopg2 import errorcodes

from walex_celery.errors import (
    AuthenticationFailed,
    NoFreeSlot,
    PostgresUnavailable,
    PrivilegeError,
    PublicationMissing,
    RecoverableSetupError,
    SetupError,
    SlotInUse,
    SlotLost,
    WalExError,
    WalLevelError,
)
from walex_celery.postgres.parameters import ConnectionSettings, SlotSettings
from walex_celery.postgres.refusal import Refusal

_POOLER: Final = (
    "a connection pooler is in between: set hostname= and port= to Postgres' own, usually port 5432 (PgBouncer passes "
    "replication on from 1.23 on; others don't)"
)

_WRONG_PASSWORD: Final = (
    "set the right password= or WALEX_PASSWORD; of a running producer, walex.replace_config('password', ...)"
)
_PG_HBA: Final = (
    "allow the role in pg_hba.conf (a line for 'replication' is not needed: logical replication "
    "connects to the database by name), then SELECT pg_reload_conf()"
)
_NOT_BY_PASSWORD: Final = (
    "pg_hba.conf asks for no password on this way in: have it ask role {role} for one (scram-sha-256) and SELECT "
    "pg_reload_conf(), run as the operating system's user that it expects, or connect by TCP (hostname=127.0.0.1)"
)
_CORRECT: Final = "correct what it says; Postgres' own log may say more"
_NO_DATABASE: Final = "set database= and username= to ones that exist"

#: The words of a server, a pooler or libpq that refuses a connection: which error that is, and its fix. The first
#: that is found counts.
_REFUSALS: Final[dict[str, tuple[type[WalExError], str]]] = {
    "no password supplied": (AuthenticationFailed, "set password= or WALEX_PASSWORD"),
    "password authentication failed": (AuthenticationFailed, _WRONG_PASSWORD),
    "no pg_hba.conf entry": (SetupError, _PG_HBA),
    "pg_hba.conf rejects": (RecoverableSetupError, f"remove the line with 'reject', or {_PG_HBA}"),
    # Peer, ident, GSSAPI, LDAP, certificates ...
    "authentication failed for user": (RecoverableSetupError, _NOT_BY_PASSWORD),
    "permission denied to start WAL sender": (
        PrivilegeError,
        "ALTER ROLE {role} REPLICATION;  (Amazon RDS: GRANT rds_replication TO {role})",
    ),
    "must be superuser or replication role": (PrivilegeError, "ALTER ROLE {role} REPLICATION;"),
    "is not permitted to log in": (SetupError, "ALTER ROLE {role} LOGIN;"),
    "permission denied for database": (SetupError, "GRANT CONNECT ON DATABASE {database} TO {role};"),
    "not currently accepting connections": (
        RecoverableSetupError,
        "ALTER DATABASE {database} ALLOW_CONNECTIONS true;",
    ),
    "has group or world access": (RecoverableSetupError, "chmod 0600 the file of sslkey="),
    "private key file": (
        RecoverableSetupError,
        "set sslkey= to the key of the certificate in sslcert=, a file that this user can read",
    ),
    "does not match host name": (
        RecoverableSetupError,
        "set hostname= to a name that the server's certificate has, or sslmode=verify-ca to accept any",
    ),
    "does not support SSL": (
        RecoverableSetupError,
        "turn TLS on in Postgres (ssl = on), or set sslmode=prefer to do without",
    ),
    "certificate file": (SetupError, "set sslrootcert=, sslcert= and sslkey= to files that exist"),
    # PgBouncer before 1.23, and others that don't know replication connections.
    "unsupported startup parameter": (SetupError, _POOLER),
    "support streaming replication": (SetupError, _POOLER),
    "no such database": (RecoverableSetupError, "set database= to one that the connection pooler knows"),
    "does not exist": (SetupError, _NO_DATABASE),
    "could not translate host name": (PostgresUnavailable, "set hostname= to the server's"),
    "certificate verify failed": (
        SetupError,
        "set sslrootcert= to the authority that signed the server's certificate",
    ),
    "max_wal_senders": (NoFreeSlot, "raise max_wal_senders in postgresql.conf and restart Postgres"),
}

#: libpq's words for a network or a server that is down.
_DOWN: Final = (
    "Is the server running", "timeout expired", "server closed the connection unexpectedly", "SSL SYSCALL error",
    "Connection reset", "could not receive data", "could not send data",
    "the database system is starting up", "the database system is shutting down",
)  # fmt: skip

#: What the server means by a SQLSTATE (manual, appendix A), in whatever language it says it: which error, and its fix.
_STATES: Final[dict[str, tuple[type[WalExError], str]]] = {
    errorcodes.INVALID_PASSWORD: (AuthenticationFailed, _WRONG_PASSWORD),
    errorcodes.INVALID_AUTHORIZATION_SPECIFICATION: (
        RecoverableSetupError,
        f"this is what Postgres says of a role that does not exist or may not log in (ALTER ROLE {{role}} LOGIN), and "
        f"of one that pg_hba.conf does not let in: {_PG_HBA}. Or {_NOT_BY_PASSWORD}",
    ),
    errorcodes.INVALID_CATALOG_NAME: (SetupError, _NO_DATABASE),
    errorcodes.INSUFFICIENT_PRIVILEGE: (
        PrivilegeError,
        "GRANT CONNECT ON DATABASE {database} TO {role}; ALTER ROLE {role} REPLICATION;  "
        "(Amazon RDS: GRANT rds_replication TO {role})",
    ),
}


def explain_connect_error(
    error: psycopg2.Error, settings: ConnectionSettings, examine: Callable[[], Refusal]
) -> WalExError:
    """What a failed attempt to connect means. libpq gives no SQLSTATE there, only words in some language.

    Args:
        error: as psycopg2 raised it.
        settings: of the connection.
        examine: finds out why it fails; called if the words are not known.
    """
    text = hide_secrets(str(error).strip(), settings.secrets())
    failed = f"can't connect to Postgres at {settings.address()}: {text}"
    for words, (kind, fix) in _REFUSALS.items():
        if words in text:
            return kind(failed + _fix(fix, settings))
    if any(words in text for words in _DOWN):
        return PostgresUnavailable(failed)
    refusal = examine()
    if refusal.sqlstate in _STATES:
        kind, fix = _STATES[refusal.sqlstate]
        return kind(failed + _fix(fix, settings))
    if refusal.is_transient:
        return PostgresUnavailable(failed)
    return RecoverableSetupError(failed + _fix(_CORRECT, settings))


def _fix(fix: str, settings: ConnectionSettings) -> str:
    role, database = quote_identifier(settings.role), quote_identifier(settings.database)
    return "\n  fix: " + fix.format(role=role, database=database)


def words_of(error: psycopg2.Error) -> str:
    """What the server says, without its severity: psycopg2 leaves that out only in English."""
    text = str(error).strip()
    severity = error.diag.severity
    return text.removeprefix(f"{severity}:").lstrip() if severity else text


def explain_error(error: psycopg2.Error, settings: ConnectionSettings) -> WalExError:
    """What an error of the server means, whatever was asked of it: which of ours, and its fix."""
    text = hide_secrets(words_of(error), settings.secrets())
    code = error.pgcode
    if code == errorcodes.CONFIGURATION_LIMIT_EXCEEDED:
        return NoFreeSlot(
            f"Postgres has no free replication slot ({text})\n  fix: drop an unused one "
            "(SELECT slot_name, active FROM pg_replication_slots), or raise max_replication_slots and restart"
        )
    if code == errorcodes.TOO_MANY_CONNECTIONS:
        return NoFreeSlot(
            f"Postgres takes no more connections ({text})\n  fix: raise max_wal_senders and restart"
        )
    if code == errorcodes.INSUFFICIENT_PRIVILEGE:
        return privilege_error(settings.role, f"may not replicate ({text})")
    if code == errorcodes.OBJECT_NOT_IN_PREREQUISITE_STATE and "wal_level" in text:
        return wal_level_error(text)
    if code == errorcodes.OBJECT_NOT_IN_PREREQUISITE_STATE and "max_replication_slots" in text:
        return NoFreeSlot(
            f"Postgres has no replication slots ({text})\n  fix: ALTER SYSTEM SET max_replication_slots = 10; "
            "then restart Postgres"
        )
    if code is None or code[:2] in ("08", "57", "53"):
        return PostgresUnavailable(f"the connection to Postgres at {settings.address()} broke: {text}")
    return SetupError(f"Postgres at {settings.address()} says: {text}")


def explain_slot_error(error: psycopg2.Error, settings: SlotSettings) -> WalExError:
    """What an error means of a command that makes, changes or reads a slot."""
    text = hide_secrets(words_of(error), settings.connection.secrets())
    code, slot = error.pgcode, settings.name
    if code in (errorcodes.OBJECT_IN_USE, errorcodes.DUPLICATE_OBJECT):
        return slot_in_use(slot, f"({text})")
    # Not by its words, which are in the language of the server; below its first line, the slot may be named anyway.
    first_line = text.partition("\n")[0]
    about_slot = _is_named(slot, first_line)
    about_publication = any(_is_named(name, first_line) for name in settings.publications)
    if about_slot and about_publication:
        about_slot = 'publication "' not in first_line
    if code == errorcodes.UNDEFINED_OBJECT and about_publication and not about_slot:
        names = ", ".join(settings.publications)
        return PublicationMissing(
            f"publication {names} does not exist, or did not when the WAL being read was written ({text})\n"
            f"  fix: create it; if it was made after slot {slot!r}, old WAL can't be read with it: "
            f"SELECT pg_drop_replication_slot('{slot}'), start again, and backfill what came between"
        )
    if code == errorcodes.UNDEFINED_OBJECT and about_slot:
        return slot_gone(slot, text)
    about_server = "wal_level" in text or "max_replication_slots" in text
    if code == errorcodes.OBJECT_NOT_IN_PREREQUISITE_STATE and about_slot and not about_server:
        if "synchronized from the primary" in text:
            return PostgresUnavailable(f"{settings.connection.address()} is a standby server: {text}")
        return slot_invalidated(slot, text)
    return explain_error(error, settings.connection)


def _is_named(name: str, text: str) -> bool:
    """Whether *text* has *name*, in whatever quotation marks."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def privilege_error(role: str, what: str) -> PrivilegeError:
    """The error for a *role* that may not replicate."""
    quoted = quote_identifier(role)
    return PrivilegeError(
        f"role {role!r} {what}\n  fix: ALTER ROLE {quoted} REPLICATION;  "
        f"(Amazon RDS: GRANT rds_replication TO {quoted})"
    )


def wal_level_error(found: str) -> WalLevelError:
    """The error for a server whose ``wal_level`` is *found*."""
    return WalLevelError(
        f"Postgres does not log what logical replication needs ({found})\n"
        "  fix: ALTER SYSTEM SET wal_level = logical; then restart Postgres "
        "(Amazon RDS: rds.logical_replication = 1 in the parameter group)"
    )


def slot_in_use(slot: str, by: str) -> SlotInUse:
    """The error for a slot that another process reads; *by* completes "is in use"."""
    return SlotInUse(
        f"replication slot {slot!r} is in use {by}: another producer is running. Stop it, start this one "
        "with --standby to wait for it, or give this instance another slot_name="
    )


def slot_gone(slot: str, why: str) -> SlotLost:
    """The error for a durable slot that does not exist any more."""
    return SlotLost(
        f"replication slot {slot!r} is gone ({why}): changes since it was last read are lost to this instance\n"
        "  fix: start the producer again, which makes the slot, and backfill what came between"
    )


#: What to do about each ``pg_replication_slots.invalidation_reason`` before the slot is made again.
_INVALIDATIONS: Final = {
    "wal_removed": (
        "Postgres has removed WAL that it needs (max_slot_wal_keep_size)",
        "see why the producer fell behind, or raise max_slot_wal_keep_size; then ",
    ),
    "idle_timeout": (
        "it was not read for idle_replication_slot_timeout",
        "raise idle_replication_slot_timeout above the longest time without a producer; then ",
    ),
    "rows_removed": (
        "rows of the catalog that it needs were removed, on a standby server",
        "set hot_standby_feedback = on there; then ",
    ),
    "wal_level_insufficient": (
        "wal_level was lowered",
        "ALTER SYSTEM SET wal_level = logical, restart Postgres; then ",
    ),
}


def slot_invalidated(slot: str, reason: str) -> SlotLost:
    """The error for a slot that Postgres has invalidated for *reason*, its own word or words for it."""
    why, first = _INVALIDATIONS.get(reason, (reason, ""))
    return SlotLost(
        f"replication slot {slot!r} can't be read any more: {why}. Changes since it was last read are lost to this "
        f"instance\n  fix: {first}SELECT pg_drop_replication_slot('{slot}'); start the producer again, which makes the "
        "slot, and backfill what came between"
    )


def quote_identifier(name: str) -> str:
    """*name* as it stands in the SQL that an error suggests."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """*text* as it stands in the SQL that an error suggests."""
    return "'" + text.replace("'", "''") + "'"


def hide_secrets(text: str, secrets: Iterable[str]) -> str:
    """*text* without *secrets*, in case a server or a library has repeated one."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
