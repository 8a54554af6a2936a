"""Names in the database are shown with their control characters escaped: any role that owns a table chooses them."""

from __future__ import annotations

import pytest
from celery import Celery

from tests.operations.nodes import command, present
from tests.support import Database, wait_until
from tests.support.producers import status_of
from tests.support.shop import collect, make_walex
from walex_celery.filters import Table
from walex_celery.operations.doctor import Finding
from walex_celery.operations.doctor.report import render_text

HOSTILE = "a\x1b]0;title\x07\x1b[2J[red]\u202e"


@pytest.fixture
def hostile(shop: Database) -> Database:
    shop.execute(f'CREATE TABLE "{HOSTILE}" (id int PRIMARY KEY)')
    return shop


def test_status_escapes_the_names_of_tables(app: Celery, hostile: Database) -> None:
    walex = make_walex(app, hostile, subscriptions=["items", Table("public", HOSTILE)])
    collect(walex, "all")
    hostile.execute(f'ALTER PUBLICATION events ADD TABLE "{HOSTILE}"')
    with present(app, walex) as producer:
        hostile.execute(f'INSERT INTO "{HOSTILE}" VALUES (1)')
        wait_until(lambda: any(HOSTILE in entry.table for entry in status_of(producer).tables))
        output = command(app, "status").output

    assert "\x1b" not in output
    assert "\u202e" not in output
    assert "\\x1b[2J[red]" in output


@pytest.mark.parametrize("arguments", [("doctor", "--all"), ("setup", "--dry-run")])
def test_other_commands_do_too(app: Celery, hostile: Database, arguments: tuple[str, ...]) -> None:
    walex = make_walex(app, hostile, subscriptions=["items", Table("public", HOSTILE)])
    collect(walex, "all")

    output = command(app, *arguments).output

    assert "\x1b" not in output
    assert "\u202e" not in output
    assert "\\x1b" in output


def test_a_finding_stays_one_line() -> None:
    """Otherwise a table's name could add a finding of its own, or say that all is well."""
    finding = Finding("tables", "error", "table 'a\n✓ all is well' is missing")
    line = render_text("shop", [finding], every=False)[0].plain
    assert line == "✗ table 'a\\n✓ all is well' is missing  [tables]"
