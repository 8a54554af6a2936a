"""Servers that can't be used: a pooler in between, a Postgres that is too old, one that refuses in another language.

Each error says the fix, and only what may pass by itself is tried again (promise 8).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.failover.fake_server import ASKS_FOR_PASSWORD, answering, error, welcome
from tests.support import Database, wait_until
from tests.support.process import producer_process
from walex_celery import SetupError
from walex_celery.errors import (
    AuthenticationFailed,
    NoFreeSlot,
    PostgresUnavailable,
    PrivilegeError,
    RecoverableSetupError,
    WalExError,
)
from walex_celery.postgres.connection import connect, connect_replication
from walex_celery.postgres.parameters import ConnectionSettings


def settings_for(port: int) -> ConnectionSettings:
    return ConnectionSettings(hosts=(("127.0.0.1", port),), database="shop", user="me", password="hunter2")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        # PgBouncer 1.18, as it answered.
        ("unsupported startup parameter: replication", "08P01"),
        ("Feature not supported: RDS Proxy currently doesn't support streaming replication", "0A000"),
    ],
)
def test_a_pooler_that_does_not_pass_replication_on(text: str, code: str) -> None:
    with (
        answering(error(text, code)) as port,
        pytest.raises(SetupError, match="fix: a connection pooler is in between: set hostname= and port="),
    ):
        connect_replication(settings_for(port))


def test_a_server_that_is_too_old() -> None:
    with (
        answering(welcome("13.23")) as port,
        pytest.raises(SetupError, match="is version 13; 14 or newer is needed"),
    ):
        connect(settings_for(port))


def test_a_server_that_starts_is_waited_for() -> None:
    with (
        answering(error("the database system is starting up", "57P03")) as port,
        pytest.raises(PostgresUnavailable, match="starting up"),
    ):
        connect(settings_for(port))


#: As Postgres 15 words them in German and French; SQLSTATE, kind of error, and words of its fix.
IN_OTHER_WORDS = [
    ("Passwort-Authentifizierung für Benutzer »me« fehlgeschlagen", "28P01", AuthenticationFailed, "right password="),
    ("Rolle »me« existiert nicht", "28000", RecoverableSetupError, "a role that does not exist"),
    ("kein pg_hba.conf-Eintrag für Host »::1«, Benutzer »me«", "28000", RecoverableSetupError, "in pg_hba.conf"),
    ("Peer-Authentifizierung für Benutzer »me« fehlgeschlagen", "28000", RecoverableSetupError, "have it ask role"),
    ("Datenbank »shop« existiert nicht", "3D000", SetupError, "set database="),
    ("keine Berechtigung für Datenbank »shop«", "42501", PrivilegeError, 'GRANT CONNECT ON DATABASE "shop"'),
    ("Datenbank »shop« akzeptiert gegenwärtig keine Verbindungen", "55000", RecoverableSetupError, "correct what it"),
    ("unbekannter Konfigurationsparameter »foo«", "42704", RecoverableSetupError, "correct what it says"),
    ("Anzahl angeforderter Standby-Verbindungen überschreitet »max_wal_senders«", "53300", NoFreeSlot, "raise max_"),
    ("das Datenbanksystem startet", "57P03", PostgresUnavailable, ""),
    ("le système de bases de données se ferme", "57P03", PostgresUnavailable, ""),
    ("le système de bases de données est en cours de restauration", "57P03", PostgresUnavailable, ""),
    ("tut mir leid, schon zu viele Verbindungen", "53300", PostgresUnavailable, ""),
    ("die verbleibenden Verbindungsslots sind für Superuser reserviert", "53300", PostgresUnavailable, ""),
    ("server login has been failing, try again later", "08P01", PostgresUnavailable, ""),
]  # fmt: skip


@pytest.mark.parametrize("connecting", [connect, connect_replication])
@pytest.mark.parametrize("is_logged_in", [False, True], ids=["at once", "after the password"])
@pytest.mark.parametrize(("text", "code", "kind", "fix"), IN_OTHER_WORDS)
def test_what_a_server_says_in_another_language(
    text: str,
    code: str,
    kind: type[WalExError],
    fix: str,
    is_logged_in: bool,
    connecting: Callable[..., object],
) -> None:
    says = error(text, code)
    answer = (ASKS_FOR_PASSWORD, says) if is_logged_in else (says, b"")
    with answering(answer[0], once_logged_in=answer[1]) as port, pytest.raises(WalExError) as caught:
        connecting(settings_for(port))

    assert type(caught.value) is kind
    assert text in str(caught.value)
    assert fix in str(caught.value)
    assert ("fix:" in str(caught.value)) == bool(fix)
    assert "hunter2" not in str(caught.value)


def test_a_producer_that_is_refused_in_another_language_ends_with_the_fix(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with answering(error("Passwort-Authentifizierung für Benutzer »me« fehlgeschlagen", "28P01")) as port:
        url = f"postgresql://me:hunter2@127.0.0.1:{port}/shop"
        with producer_process(database, redis_url, log, url=url) as process:
            assert wait_until(process.poll, timeout=30) == 78, log.read_text()
    assert "fix: set the right password=" in log.read_text()
