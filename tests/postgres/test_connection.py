"""Connections: what is pinned in their sessions, and what their failures mean (promises 7, 8 and 9)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import Database
from walex_celery import SetupError, WalExError
from walex_celery.errors import AuthenticationFailed, PostgresUnavailable, RecoverableSetupError
from walex_celery.postgres.connection import SESSION, connect, connect_replication
from walex_celery.postgres.parameters import ConnectionSettings
from walex_celery.settings.model import load_settings

CONNECTS = pytest.mark.parametrize("connecting", [connect, connect_replication])


def settings_of(on: Database, **keywords: object) -> ConnectionSettings:
    given = {"name": "shop", "url": on.url, "publication": "events", **keywords}
    return load_settings(given, {}).connection_settings()


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@CONNECTS
def test_the_session_is_pinned_whatever_the_database_s_defaults(
    connecting: Callable[[ConnectionSettings], Any], database: Database
) -> None:
    """Else the text of values would follow them (promise 7)."""
    for name, value in {
        "DateStyle": "German",
        "IntervalStyle": "iso_8601",
        "TimeZone": "Asia/Tokyo",
        "bytea_output": "escape",
        "extra_float_digits": "0",
        "statement_timeout": "60",
        "client_encoding": "LATIN1",
    }.items():
        database.execute(f"ALTER DATABASE {database.name} SET {name} = '{value}'")

    connection = connecting(settings_of(database))
    try:
        with connection.cursor() as cursor:
            shown = {}
            for name in (*SESSION, "client_encoding", "application_name"):
                cursor.execute(f"SHOW {name}")
                shown[name] = cursor.fetchone()[0]
    finally:
        connection.close()

    assert shown == {**SESSION, "client_encoding": "UTF8", "application_name": "walex shop"}


@CONNECTS
@pytest.mark.parametrize(
    ("wrong", "kind", "fix"),
    [
        ({"password": "hunter2"}, AuthenticationFailed, "set the right password= or WALEX_PASSWORD"),
        ({"database": "no_such_database"}, SetupError, "set database="),
        ({"username": "no_such_role"}, AuthenticationFailed, "set the right password="),
        ({"hostname": "no-such-host.invalid"}, PostgresUnavailable, "set hostname="),
        ({"port": closed_port()}, PostgresUnavailable, "127.0.0.1"),
        ({"hostname": "/no/such/folder"}, PostgresUnavailable, "/no/such/folder"),
        ({"sslmode": "require"}, RecoverableSetupError, "fix: turn TLS on in Postgres"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_connection_that_fails_says_why_and_never_the_password(
    connecting: Callable[[ConnectionSettings], Any],
    wrong: dict[str, object],
    kind: type[WalExError],
    fix: str,
    database: Database,
) -> None:
    settings = settings_of(database, connect_timeout=2, **wrong)

    with pytest.raises(kind) as caught:
        connecting(settings)

    assert type(caught.value) is kind
    assert fix in str(caught.value)
    assert settings.address() in str(caught.value)
    assert caught.value.__cause__ is None, "psycopg2's own text is not chained: it is not ours to clean"
    for secret in settings.secrets():
        assert secret not in str(caught.value)


def test_no_password_where_one_is_needed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    url = database.url.replace(database.server.password, "")

    with pytest.raises(SetupError, match="set password= or WALEX_PASSWORD"):
        connect(settings_of(database, url=url))


@CONNECTS
def test_the_bytes_of_a_sql_ascii_database_come_as_they_are(
    connecting: Callable[[ConnectionSettings], Any], database: Database
) -> None:
    """With client_encoding UTF8 the server refuses to send bytes of a SQL_ASCII database that are not."""
    name = database.server.create_database(encoding="SQL_ASCII")
    try:
        connection = connecting(settings_of(Database(database.server, name)))
        with connection.cursor() as cursor:
            cursor.execute("SHOW client_encoding")
            assert cursor.fetchone() == ("SQL_ASCII",)
        connection.close()
    finally:
        database.server.drop_database(name)


@CONNECTS
def test_a_database_named_with_a_slash_and_options_in_the_url(
    connecting: Callable[[ConnectionSettings], Any], database: Database
) -> None:
    name = database.server.create_database(f"{database.name}/%?")
    # What the producer depends on is its own to set.
    options = "-c%20work_mem%3D1234kB%20-c%20DateStyle%3DGerman%20-c%20client_encoding%3DLATIN1"
    try:
        url = f"{Database(database.server, name).url}?application_name=cdc&options={options}"
        connection = connecting(settings_of(database, url=url))
        with connection.cursor() as cursor:
            names = ("application_name", "work_mem", "DateStyle", "client_encoding")
            cursor.execute(
                "SELECT "
                + ", ".join(["current_database()", *(f"current_setting('{name}')" for name in names)])
            )
            assert cursor.fetchone() == (name, "cdc", "1234kB", "ISO, YMD", "UTF8")
        connection.close()
    finally:
        database.server.drop_database(name)
