"""What Postgres' errors mean: which of ours, told with the fix and without a secret (promises 8 and 9)."""

from __future__ import annotations

import psycopg2

from walex_celery.postgres.errors import explain_connect_error, hide_secrets, quote_identifier
from walex_celery.postgres.parameters import ConnectionSettings

SETTINGS = ConnectionSettings(hosts=(("localhost", 5432),), database="shop")


def test_a_missing_certificate_is_not_a_missing_database() -> None:
    said = psycopg2.OperationalError('root certificate file "/no/such/ca.pem" does not exist')

    assert "fix: set sslrootcert=" in str(explain_connect_error(said, SETTINGS))


def test_secrets_are_hidden_wherever_they_stand() -> None:
    url = "postgresql://me:hunter2@db/shop"

    assert hide_secrets(f"can't use {url}, nor hunter2", ["hunter2", url]) == "can't use ***, nor ***"


def test_identifiers_are_quoted() -> None:
    assert quote_identifier('my "table"') == '"my ""table"""'
