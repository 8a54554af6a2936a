"""The server: what it is, and what must be right there before a slot is touched."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, Final

import msgspec
import psycopg2
from psycopg2.extensions import connection as Connection

from walex_celery.errors import PublicationMissing
from walex_celery.postgres.errors import explain_error, privilege_error, quote_identifier, wal_level_error
from walex_celery.postgres.parameters import ConnectionSettings, SlotSettings

#: SQL for how far the WAL is written; on a standby server, which writes none, how far it is replayed.
WAL_LSN: Final = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END"

#: In quotes, or without.
_STANDBY_NAME: Final = re.compile(r'"((?:[^"]|"")+)"|([^\s,"]+)')


class Server(msgspec.Struct, frozen=True):
    """What the producer needs to know of the server.

    Attributes:
        version: ``server_version_num``, 180006 for 18.6.
        system_identifier: of the cluster; a part of task ids.
        database: the one connected to.
        wal_sender_timeout: seconds after which the server drops a silent receiver; 0 for never.
        in_recovery: whether it is a standby server.
    """

    version: int
    system_identifier: int
    database: str
    wal_sender_timeout: float
    in_recovery: bool = False


def inspect_server(connection: Connection, settings: ConnectionSettings) -> Server:
    """What the server is; raises what :func:`explain_error` makes of a failure."""
    row = query_row(
        connection,
        settings,
        "SELECT current_setting('server_version_num')::int, system_identifier, current_database(),"
        " (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'), pg_is_in_recovery()"
        " FROM pg_control_system()",
    )
    assert row is not None
    return Server(row[0], row[1], row[2], row[3] / 1000, row[4])


def check_prerequisites(connection: Connection, settings: SlotSettings) -> None:
    """Check all that can be known before the slot is touched.

    Raises:
        WalLevelError, PrivilegeError, PublicationMissing: each with its fix.
    """
    row = query_row(connection, settings.connection, "SELECT current_setting('wal_level'), current_user")
    assert row is not None
    wal_level, role = row
    if wal_level != "logical":
        raise wal_level_error(f"wal_level is {wal_level!r}")
    if not may_replicate(connection, settings.connection):
        raise privilege_error(role, "lacks the REPLICATION attribute")
    _check_publications(connection, settings)


def _check_publications(connection: Connection, settings: SlotSettings) -> None:
    row = query_row(
        connection,
        settings.connection,
        "SELECT array_agg(name), (SELECT array_agg(pubname::text) FROM pg_publication) FROM unnest(%s) name"
        " WHERE name NOT IN (SELECT pubname FROM pg_publication)",
        (list(settings.publications),),
    )
    missing, known = row or (None, None)
    if missing:
        tables = ", ".join(
            f"{quote_identifier(schema)}.{quote_identifier(name)}" for schema, name in settings.tables
        )
        wanted = f"FOR TABLE {tables}" if tables else "FOR ALL TABLES"
        names = [name for name in known or () if get_close_matches(name, missing)]
        hint = f" (did you mean {' or '.join(map(repr, dict.fromkeys(names)))}?)" if names else ""
        fixes = "; ".join(f"CREATE PUBLICATION {quote_identifier(name)} {wanted}" for name in missing)
        raise PublicationMissing(
            f"publication {', '.join(map(repr, missing))} does not exist in database "
            f"{settings.connection.database!r}{hint}\n  fix: {fixes};"
        )


def may_replicate(connection: Connection, settings: ConnectionSettings) -> bool:
    """Whether the role of *connection* has the REPLICATION attribute, or Amazon RDS' role for it."""
    row = query_row(
        connection,
        settings,
        "SELECT rolsuper OR rolreplication OR EXISTS (SELECT FROM pg_roles managed WHERE managed.rolname ="
        " 'rds_replication' AND pg_has_role(me.oid, managed.oid, 'USAGE')) FROM pg_roles me"
        " WHERE rolname = current_user",
    )
    return bool(row and row[0])


def synchronous_standby(connection: Connection, settings: ConnectionSettings) -> str | None:
    """What is wrong, if Postgres takes a producer with *settings* for a synchronous standby; else ``None``."""
    row = query_row(connection, settings, "SELECT current_setting('synchronous_standby_names')")
    assert row is not None
    (names,) = row
    if not _names_standby(names, settings.application_name):
        return None
    return (
        f"synchronous_standby_names is {names!r}, which names the producer ({settings.application_name!r}) too: "
        "commits wait for it as for a standby server, and a handler that commits on this server waits for ever"
    )


def _names_standby(setting: str, application_name: str) -> bool:
    """Whether ``synchronous_standby_names`` (manual, section 19.6.2) has *application_name*, or ``*``.

    >>> _names_standby('ANY 1 (standby1, "walex shop")', "walex shop"), _names_standby("FIRST 1 (a, b)", "walex shop")
    (True, False)
    """
    listed = setting.rpartition("(")[2].partition(")")[0]
    names = [(quoted.replace('""', '"') or plain).lower() for quoted, plain in _STANDBY_NAME.findall(listed)]
    return "*" in names or application_name.lower() in names


def query_row(
    connection: Connection,
    settings: ConnectionSettings,
    query: str,
    parameters: tuple[Any, ...] | None = None,
) -> tuple[Any, ...] | None:
    """The first row of *query*, or ``None``; raises what :func:`explain_error` makes of a failure."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(query, parameters)
            row: tuple[Any, ...] | None = cursor.fetchone()
            return row
    except psycopg2.Error as error:
        raise explain_error(error, settings) from error
