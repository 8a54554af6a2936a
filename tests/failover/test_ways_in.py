"""Real servers that refuse for good: who comes in, how, and by which certificate (promise 8).

The first connection ends with the fix, and is not tried again.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import Database, wait_until
from walex_celery.errors import (
    AuthenticationFailed,
    PrivilegeError,
    RecoverableSetupError,
    SetupError,
    WalExError,
)
from walex_celery.postgres.connection import connect, connect_replication
from walex_celery.postgres.parameters import ConnectionSettings
from walex_celery.testing.servers import Postgres, npm_postgres

RULES = """
local   all   all                       peer
hostssl all   postgres    127.0.0.1/32  scram-sha-256
hostnossl all postgres    127.0.0.1/32  scram-sha-256
host    all   guest       127.0.0.1/32  trust
host    all   unwanted    127.0.0.1/32  reject
hostssl all   certified   127.0.0.1/32  cert
host    all   limited     127.0.0.1/32  trust
"""


class Place(NamedTuple):
    """A server with TLS, and the folder of its socket and of its certificate."""

    server: Postgres
    folder: Path

    @property
    def settings(self) -> ConnectionSettings:
        """How to connect."""
        server = self.server
        return ConnectionSettings(
            hosts=(("127.0.0.1", server.port),),
            database="postgres",
            user="postgres",
            password=server.password,
        )


def execute(server: Postgres, statement: str) -> None:
    Database(server, "postgres").execute(statement)


def turn_tls(server: Postgres, state: str) -> None:
    execute(server, f"ALTER SYSTEM SET ssl = {state}")
    execute(server, "SELECT pg_reload_conf()")


@pytest.fixture(scope="module", params=[14, 18])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="walex-", dir="/tmp"))
    folder.chmod(0o777)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=db.example", "-days", "2",
         "-addext", "subjectAltName=DNS:db.example", "-keyout", folder / "key", "-out", folder / "certificate"],
        check=True, capture_output=True,
    )  # fmt: skip
    try:
        with Postgres(
            npm_postgres(request.param), settings={"unix_socket_directories": str(folder)}
        ) as server:
            for name in ("key", "certificate"):
                inside = server.data_dir / name
                shutil.copyfile(folder / name, inside)
                inside.chmod(0o600)
                if server.user:
                    shutil.chown(inside, server.user)
            server.create_database("closed")
            execute(server, "ALTER DATABASE closed ALLOW_CONNECTIONS false")
            for role in ("guest LOGIN", "unwanted LOGIN", "certified LOGIN", "limited NOLOGIN"):
                execute(server, f"CREATE ROLE {role}")
            hba = server.data_dir / "pg_hba.conf"
            hba.write_text(RULES)
            with (server.data_dir / "postgresql.conf").open("a") as configuration:
                configuration.write("ssl_cert_file = 'certificate'\nssl_key_file = 'key'\n")
                configuration.write("ssl_ca_file = 'certificate'\n")
            turn_tls(server, "on")
            yield Place(server, folder)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("connecting", [connect, connect_replication])
@pytest.mark.parametrize(
    ("wrong", "kind", "fix"),
    [
        ({"user": "unwanted"}, RecoverableSetupError, "remove the line with 'reject'"),
        ({"user": "stranger"}, SetupError, "allow the role in pg_hba.conf"),
        ({"user": "limited"}, SetupError, 'ALTER ROLE "limited" LOGIN;'),
        (
            {"user": "certified", "sslmode": "require"},
            RecoverableSetupError,
            "pg_hba.conf asks for no password",
        ),
        ({"database": "closed"}, RecoverableSetupError, 'ALTER DATABASE "closed" ALLOW_CONNECTIONS true;'),
        ({"password": "wrong"}, AuthenticationFailed, "set the right password="),
        ({"libpq": {"channel_binding": "bogus"}}, RecoverableSetupError, "correct what it says"),
        ({"libpq": {"options": "-c no_such_parameter=1"}}, RecoverableSetupError, "correct what it says"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_who_may_not_come_in(
    wrong: dict[str, object],
    kind: type[WalExError],
    fix: str,
    connecting: Callable[..., object],
    place: Place,
) -> None:
    refused(replace(place.settings, **wrong), kind, fix, connecting)  # type: ignore[arg-type]


def test_a_role_that_may_not_replicate(place: Place) -> None:
    refused(
        replace(place.settings, user="guest"),
        PrivilegeError,
        'ALTER ROLE "guest" REPLICATION;',
        connect_replication,
    )


def test_peer_authentication(place: Place) -> None:
    settings = replace(place.settings, hosts=((str(place.folder), place.server.port),), user="guest")

    refused(settings, RecoverableSetupError, "connect by TCP (hostname=127.0.0.1)", connect)


def test_a_certificate_for_another_name(place: Place) -> None:
    trusting = replace(place.settings, sslmode="verify-full", sslrootcert=str(place.folder / "certificate"))

    refused(
        trusting, RecoverableSetupError, "set hostname= to a name that the server's certificate has", connect
    )
    connect(replace(trusting, sslmode="verify-ca")).close()


def test_a_certificate_of_another_authority(place: Place) -> None:
    other = place.folder / "other"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=db.example", "-days", "2",
         "-keyout", place.folder / "other-key", "-out", other],
        check=True, capture_output=True,
    )  # fmt: skip

    refused(
        replace(place.settings, sslmode="verify-ca", sslrootcert=str(other)),
        SetupError,
        "set sslrootcert=",
        connect,
    )


@pytest.mark.parametrize(("mode", "fix"), [(0o644, "chmod 0600 the file of sslkey="), (None, "set sslkey=")])
def test_a_key_file_that_others_may_read_or_that_is_missing(mode: int | None, fix: str, place: Place) -> None:
    key = place.folder / "client-key"
    key.unlink(missing_ok=True)
    if mode is not None:
        shutil.copyfile(place.folder / "key", key)
        key.chmod(mode)
    settings = replace(
        place.settings, sslmode="require", sslcert=str(place.folder / "certificate"), sslkey=str(key)
    )

    refused(settings, RecoverableSetupError, fix, connect)


def test_tls_of_a_server_without(place: Place) -> None:
    turn_tls(place.server, "off")
    try:
        wait_until(lambda: not connect(replace(place.settings, sslmode="prefer")).info.ssl_in_use)
        refused(
            replace(place.settings, sslmode="require"),
            RecoverableSetupError,
            "turn TLS on in Postgres",
            connect,
        )
    finally:
        turn_tls(place.server, "on")
        wait_until(lambda: connect(replace(place.settings, sslmode="prefer")).info.ssl_in_use)


def refused(
    settings: ConnectionSettings, kind: type[WalExError], fix: str, connecting: Callable[..., object]
) -> None:
    with pytest.raises(WalExError) as caught:
        connecting(settings)
    assert type(caught.value) is kind, caught.value
    assert fix in str(caught.value)
