"""Broker durability, of which ``tests/broker`` has each fault, in the doctor's words; and dead letters."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kombu import Queue

from tests.operations.doctor.support import Clinic, ids, only
from tests.operations.support import application, command
from tests.support import Database, wait_until
from walex_celery import Lsn, WalEx
from walex_celery.cli.setup import setup_command
from walex_celery.database.registry import checks_of, make
from walex_celery.dead_letters import Letter, store_to_write
from walex_celery.operations.doctor import Finding, broker, letters
from walex_celery.operations.doctor.context import Context
from walex_celery.testing.servers import Valkey


@pytest.fixture
def careless() -> Iterator[Valkey]:
    """Valkey as it comes: it keeps nothing."""
    with Valkey(append_only=False) as running:
        yield running


def with_task(walex: WalEx) -> WalEx:
    @walex.on_insert("users")
    @walex.app.task(shared=False, name="shop.welcome", time_limit=60)
    def welcome(event: Any) -> None: ...

    return walex


def ask(walex: WalEx) -> list[Finding]:
    """What the checks of the broker find that is not fine."""
    context = Context(walex, "celery -A shop")
    context.connect_broker()
    try:
        found = make(checks_of(broker.__name__), context)
        return [finding for finding in found if finding.severity != "ok"]
    finally:
        context.close()


def test_a_broker_that_keeps_what_it_confirms(database: Database, broker_url: str) -> None:
    assert ask(with_task(application(database, broker_url))) == []


def test_valkey_without_persistence_is_mended_by_the_lines(database: Database, careless: Valkey) -> None:
    walex = with_task(application(database, careless.url()))
    found = only(ask(walex), "broker_durability")
    assert found.severity == "warning"
    assert "loses all tasks when it ends" in found.sentence
    host = ["redis-cli", "-h", "127.0.0.1", "-p", str(careless.port)]
    with careless.client() as client:
        for step in found.fix:
            assert step.how == "shell"
            words = shlex.split(step.line)
            assert words[:5] == host
            client.execute_command(*words[5:])
        wait_until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
    assert ask(walex) == []


def test_a_visibility_timeout_below_a_time_limit(database: Database, redis_url: str) -> None:
    walex = with_task(application(database, redis_url))
    walex.app.conf.broker_transport_options = {"visibility_timeout": 30}
    found = only(ask(walex), "broker_durability")
    assert found.fix[0].how == "python"
    assert found.fix[0].line == 'app.conf.broker_transport_options = {"visibility_timeout": 120}'


def test_a_queue_of_rabbitmq_that_does_not_last(database: Database, amqp_url: str) -> None:
    walex = with_task(application(database, amqp_url))
    walex.app.conf.task_queues = [Queue("celery", durable=False)]
    found = only(ask(walex), "broker_durability")
    assert "'celery' is not durable" in found.sentence
    assert found.fix[0].how == "do"


# Dead letters.


def test_dead_letters_have_no_table_then_setup_makes_it(clinic: Clinic) -> None:
    walex = clinic.application(dead_letters="postgres", on_error="dead_letter")
    findings = clinic.examine(walex, (letters,))
    assert ("dead_letter_table", "error") in ids(findings)
    done = command(walex, setup_command, WALEX_ADMIN_URL=clinic.database.url)
    assert (done.exit_code, "CREATE SCHEMA IF NOT EXISTS walex;" in done.output) == (0, True), done.output
    assert clinic.examine(walex, (letters,)) == []
    again = command(walex, setup_command, WALEX_ADMIN_URL=clinic.database.url)
    assert again.output == "-- nothing to do\n"
    clinic.execute(f'REVOKE INSERT ON walex.dead_letters FROM "{clinic.database.name}"')
    found = only(clinic.examine(walex, (letters,)), "dead_letter_table")
    assert [step.line.partition(" ")[0] for step in found.fix] == ["GRANT", "GRANT"]
    for step in found.fix:
        clinic.execute(step.line)
    assert clinic.examine(walex, (letters,)) == []


def test_dead_letters_in_a_file_are_told(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert clinic.examine(modules=(letters,)) == [], "no handler can make dead letters"
    walex = clinic.application(on_error="dead_letter")
    assert ids(clinic.examine(walex, (letters,))) == {("dead_letter_table", "info")}


def test_dead_letters_that_wait(clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    walex = clinic.application(on_error="dead_letter")
    now = datetime.now(UTC)
    letter = Letter(
        id="0123456789abcdef", kind="batch", instance="shop", system_identifier=7, handler="shop.inserted",
        registration="on_insert(users)", task_id="", lsn=Lsn(4711), xid=8, index=0, tables=("users",), event_count=1,
        events=("{}",), error_type="ValueError", error="no", traceback="", committed_at=now, failed_at=now,
        tried_at=now, tries=1,
    )  # fmt: skip
    store = store_to_write(walex.settings)
    try:
        store.add(letter)
    finally:
        store.close()
    found = only(clinic.examine(walex, (letters,)), "dead_letters")
    assert found.severity == "warning"
    assert found.sentence.startswith("1 dead letter waits in ")
    assert found.fix[0].line == "celery -A shop walex dead-letters list"
