"""``walex doctor`` as a whole: its output, its exit codes, and that no check is without tests."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner
from psycopg2 import OperationalError
from rich.text import Text

from tests.operations.doctor.support import PASSWORD, Clinic
from tests.operations.support import application, command, ignore
from tests.support import Database
from walex_celery import WalEx
from walex_celery.cli.doctor import doctor_command
from walex_celery.database.registry import Check, make
from walex_celery.operations.doctor import CHECKS, Finding, Step, examine, worst
from walex_celery.operations.doctor.context import Context
from walex_celery.operations.doctor.report import render_text

HERE = Path(__file__).parent
DOCS = HERE.parents[2] / "docs" / "operations" / "doctor.md"


def healthy(clinic: Clinic, redis_url: str) -> WalEx:
    """An application on a broker that keeps what it confirms, and without tasks: no worker is needed."""
    walex = clinic.application(broker_url=redis_url)
    walex.on_event("users")(ignore)
    return walex


def test_a_healthy_application(clinic: Clinic, redis_url: str) -> None:
    asked = command(healthy(clinic, redis_url), doctor_command)
    assert asked.exit_code == 0, asked.output
    assert asked.output.startswith("✓ shop: 0 errors, 0 warnings, 0 worth knowing, ")
    assert len(asked.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("fault", "code"),
    [("ALTER SYSTEM SET max_slot_wal_keep_size = -1", 1), ("ALTER PUBLICATION events DROP TABLE users", 2)],
)
def test_the_exit_code_is_the_worst(clinic: Clinic, redis_url: str, fault: str, code: int) -> None:
    clinic.execute(fault)
    clinic.execute("SELECT pg_reload_conf()")
    assert command(healthy(clinic, redis_url), doctor_command).exit_code == code


def test_json(clinic: Clinic, redis_url: str) -> None:
    clinic.execute("ALTER PUBLICATION events DROP TABLE users")
    asked = command(healthy(clinic, redis_url), doctor_command, "--json")
    report = json.loads(asked.output)
    assert (report["version"], report["name"], report["worst"]) == (1, "shop", "error")
    assert report["findings"][0] == {
        "check": "tables_published",
        "severity": "error",
        "sentence": "publication events lacks users: their changes don't arrive",
        "mend": [{"how": "sql", "line": 'ALTER PUBLICATION "events" ADD TABLE "public"."users";'}],
    }
    severities = [finding["severity"] for finding in report["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "info", "ok"].index)
    assert PASSWORD not in asked.output


def test_it_changes_nothing(clinic: Clinic, redis_url: str) -> None:
    def state() -> list[Any]:
        return [
            clinic.execute("SELECT relname, relreplident FROM pg_class ORDER BY oid"),
            clinic.execute("SELECT * FROM pg_publication"),
            clinic.execute("SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots"),
            clinic.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"),
        ]

    clinic.execute("ALTER TABLE users REPLICA IDENTITY NOTHING")
    walex = healthy(clinic, redis_url)
    before = state()
    assert worst(examine(walex, "celery -A shop")) == "error"
    assert state() == before


def test_nothing_can_be_reached() -> None:
    app = Celery("shop", broker="amqp://guest:hunter2@127.0.0.1:1//", set_as_current=False)
    walex = WalEx(
        app, url="postgresql://u:sesame@127.0.0.1:1/shop", publication="events", subscriptions=["users"]
    )
    walex.on_insert("users")(ignore)
    asked = command(walex, doctor_command, "--all")
    assert asked.exit_code == 2
    assert "can't connect to Postgres at u@127.0.0.1:1/shop" in asked.output
    assert "could not be reached" in asked.output
    assert "[accept_content]" in asked.output
    assert "sesame" not in asked.output
    assert "hunter2" not in asked.output


def test_no_walex_is_another_code() -> None:
    asked = CliRunner().invoke(doctor_command, obj=SimpleNamespace(app=Celery("shop", set_as_current=False)))
    assert asked.exit_code == 78


def test_a_check_that_fails_is_told_and_the_others_go_on(database: Database) -> None:
    def broken(context: Context) -> list[Finding]:
        raise OperationalError("server closed the connection, says sesame-open\nand more")

    def fine(context: Context) -> list[Finding]:
        return []

    url = f"postgresql://u:sesame-open@127.0.0.1:1/{database.name}"
    context = Context(application(database, url=url), "celery -A shop")
    found = list(make([Check("broken", "", broken), Check("fine", "all is fine", fine)], context))
    assert found == [
        Finding("broken", "warning", "this could not be checked: server closed the connection, says ***"),
        Finding("fine", "ok", "all is fine"),
    ]


def test_a_terminal_without_unicode() -> None:
    findings = [
        Finding("some", "error", "it is so", (Step("sql", "SELECT 1;"),)),
        Finding("good", "ok", "fine"),
    ]
    lines = render_text("shop", findings, every=True, encoding="iso-8859-1")
    assert [line.plain for line in lines] == [
        "x it is so  [some]",
        "    SQL   SELECT 1;",
        "+ fine  [good]",
        "x shop: 1 error, 0 warnings, 0 worth knowing, 1 fine",
    ]
    assert isinstance(lines[0], Text)


@pytest.mark.parametrize("check", [check.id for check in CHECKS])
def test_each_check_has_a_test_and_is_documented(check: str) -> None:
    tests = "".join(path.read_text() for path in HERE.glob("test_*.py") if path != Path(__file__))
    assert f'"{check}"' in tests
    assert f"`{check}`" in DOCS.read_text()
