"""Servers that can't be used: a pooler in between, a Postgres that is too old. Each error says the fix."""

from __future__ import annotations

import pytest

from tests.failover.fake_server import answering, error, welcome
from walex_celery import SetupError
from walex_celery.errors import PostgresUnavailable
from walex_celery.postgres.connection import connect, connect_replication
from walex_celery.postgres.parameters import ConnectionSettings


def settings_for(port: int) -> ConnectionSettings:
    return ConnectionSettings(hosts=(("127.0.0.1", port),), database="shop", user="me")


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
