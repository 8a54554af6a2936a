"""What Postgres' errors mean: which of ours, with the fix and without a secret (promises 8 and 9)."""

from __future__ import annotations

import psycopg2
import pytest
from psycopg2 import errorcodes

from tests.support import Database
from walex_celery.errors import PublicationMissing, SetupError, SlotLost, WalExError
from walex_celery.postgres.connection import connect
from walex_celery.postgres.errors import (
    explain_connect_error,
    explain_error,
    explain_slot_error,
    hide_secrets,
    quote_identifier,
    slot_invalidated,
    words_of,
)
from walex_celery.postgres.parameters import ConnectionSettings, SlotSettings
from walex_celery.postgres.refusal import Refusal
from walex_celery.settings.model import load_settings

CONNECTION = ConnectionSettings(hosts=(("localhost", 5432),), database="shop", password="hunter2")
SLOT = SlotSettings(connection=CONNECTION, name="shop_walex", publications=("events",))


def not_asked() -> Refusal:
    raise AssertionError("the words say enough")


def test_a_missing_certificate_is_not_a_missing_database() -> None:
    said = psycopg2.OperationalError('root certificate file "/no/such/ca.pem" does not exist')

    assert "fix: set sslrootcert=" in str(explain_connect_error(said, CONNECTION, not_asked))


def test_the_words_of_a_refusal_are_shown_without_the_password() -> None:
    said = psycopg2.OperationalError('invalid connection option "hunter2"')

    assert str(explain_connect_error(said, CONNECTION, lambda: Refusal(None, is_transient=True))) == (
        'can\'t connect to Postgres at localhost:5432/shop: invalid connection option "***"'
    )


def raised_by(database: Database, statement: str) -> psycopg2.Error:
    """The error of *statement*, as Postgres words it."""
    given = {"name": "shop", "url": database.url, "publication": "events"}
    connection = connect(load_settings(given, {}).connection_settings())
    try:
        with pytest.raises(psycopg2.Error) as caught, connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()
    return caught.value


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("SELECT pg_drop_replication_slot('shop_walex')", SlotLost),
        ("SELECT 'x'::no_such_type", SetupError),
        ("SELECT 1 / 0", SetupError),
    ],
)
def test_an_undefined_object_is_the_slot_only_if_it_is_a_slot(
    database: Database, statement: str, kind: type[WalExError]
) -> None:
    error = raised_by(database, statement)

    assert type(explain_slot_error(error, SLOT)) is kind
    assert type(explain_error(error, CONNECTION)) is SetupError


class InGerman(psycopg2.errors.UndefinedObject):
    """As psycopg2 gives it; no server of the tests has translations."""

    pgcode = errorcodes.UNDEFINED_OBJECT


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Replikations-Slot »shop_walex« existiert nicht", SlotLost),
        (
            "Publikation »events« existiert nicht\nKONTEXT:  Slot »shop_walex«, Plugin »pgoutput«",
            PublicationMissing,
        ),
        ("Typ »x« existiert nicht", SetupError),
    ],
)
def test_it_is_told_by_its_name_in_any_language(words: str, kind: type[WalExError]) -> None:
    assert type(explain_slot_error(InGerman(f"FEHLER:  {words}"), SLOT)) is kind


def test_only_a_command_on_a_slot_can_find_it_in_use(database: Database) -> None:
    """CREATE PUBLICATION has the same SQLSTATE for a publication that exists."""
    database.execute("CREATE PUBLICATION events")
    error = raised_by(database, "CREATE PUBLICATION events")
    assert error.pgcode == errorcodes.DUPLICATE_OBJECT

    text = str(explain_error(error, CONNECTION))
    assert text == f"Postgres at localhost:5432/shop says: {error.diag.message_primary}"


def test_its_severity_is_left_out_in_any_language(database: Database) -> None:
    error = raised_by(database, "SELECT 1 / 0")
    assert error.diag.message_primary
    assert words_of(error) == error.diag.message_primary


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        (
            "wal_removed",
            "fix: see why the producer fell behind, or raise max_slot_wal_keep_size; then SELECT pg_drop",
        ),
        (
            "a reason of later years",
            "fix: SELECT pg_drop_replication_slot('shop_walex'); start the producer again",
        ),
    ],
)
def test_an_invalidated_slot_says_how_to_prevent_it_and_how_to_go_on(reason: str, fix: str) -> None:
    assert fix in str(slot_invalidated("shop_walex", reason))


def test_secrets_are_hidden_wherever_they_stand() -> None:
    url = "postgresql://me:hunter2@db/shop"

    assert hide_secrets(f"can't use {url}, nor hunter2", ["hunter2", url]) == "can't use ***, nor ***"


def test_identifiers_are_quoted() -> None:
    assert quote_identifier('my "table"') == '"my ""table"""'
