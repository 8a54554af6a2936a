"""Broker durability, of which ``tests/broker`` has each fault, in the doctor's words; and dead letters."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from kombu import Exchange, Queue
from kombu.transport import TRANSPORT_ALIASES, memory

from tests.operations.doctor.support import Clinic, ids, only
from tests.operations.support import application, command
from tests.support import Database, wait_until
from walex_celery import Lsn, WalEx
from walex_celery.broker.redis.errors import fix_for
from walex_celery.cli.setup import setup_command
from walex_celery.database.registry import checks_of, make
from walex_celery.dead_letters import Letter, store_to_write
from walex_celery.operations.doctor import Finding, broker, examine, letters
from walex_celery.operations.doctor.context import Context
from walex_celery.pipeline.start_log import log_weaknesses
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


# Advice is for the transport in use.


def texts(findings: list[Finding]) -> str:
    return "\n".join(
        f"{found.sentence} {' '.join(step.line for step in found.fix)}"
        for found in findings
        if found.severity != "ok" and found.check in BROKER_CHECKS
    )


BROKER_CHECKS = ("functions", *(made.id for made in checks_of(broker.__name__)), "broker", "workers_running")


class Direct(memory.Transport):
    """Without broadcasts, as Amazon SQS."""

    driver_name = "boto3"
    implements = memory.Transport.implements.extend(exchange_type=frozenset(["direct"]))


def test_a_transport_without_broadcasts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether a worker runs: that is no error."""
    monkeypatch.setitem(TRANSPORT_ALIASES, "direct", f"{__name__}:Direct")
    found = examine(with_task(application(database, "direct://")), "celery -A shop")
    workers = only(found, "workers_running")
    assert workers.severity == "info"
    assert "can't be asked through direct://" in workers.sentence
    assert not {"queues_consumed", "tasks_registered"} & {finding.check for finding in found}
    assert not {"redis", "rabbit", "valkey"} & set(re.findall(r"[a-z]+", texts(found).lower()))


def test_a_broker_in_memory(database: Database) -> None:
    found = examine(with_task(application(database, "memory://")), "celery -A shop")
    workers = only(found, "workers_running")
    assert workers.severity == "warning"
    assert "no worker gets the producer's tasks" in workers.sentence
    assert not {"redis", "rabbit", "valkey"} & set(re.findall(r"[a-z]+", texts(found).lower()))


@pytest.mark.parametrize(
    ("url", "library"),
    [
        ("sqs://", "kombu[sqs]"),
        ("sqla+sqlite:///tasks", "kombu[sqlalchemy]"),
        ("mongodb://127.0.0.1:1", "kombu[mongodb]"),
        ("nonsense://", ""),
    ],
)
def test_a_transport_without_its_library_is_one_finding(
    database: Database, url: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the library of that transport, not Redis'."""
    for module in ("boto3", "botocore", "sqlalchemy", "pymongo"):
        monkeypatch.setitem(sys.modules, module, None)
    found = examine(with_task(application(database, url)), "celery -A shop")
    findings = [finding for finding in found if "can't be used" in finding.sentence]
    assert [finding.check for finding in findings] == ["broker"]
    (step,) = findings[0].fix
    assert library in step.line
    assert "walex-celery[redis]" not in texts(found)
    assert "Start the broker" not in texts(found)


class Sentinel(Valkey):
    """A Sentinel that knows one primary, named ``shop``."""

    name: ClassVar[str] = "Sentinel"

    def __init__(self, primary: Valkey) -> None:
        super().__init__()
        self._primary = primary

    def prepare(self) -> None:
        lines = (
            f"bind 127.0.0.1\nport {self.port}\ndir {self.folder}\n"
            f"sentinel monitor shop 127.0.0.1 {self._primary.port} 1\n"
        )
        self._write(self.folder / "valkey.conf", lines)

    def command(self) -> Sequence[str | Path]:
        return [*super().command(), "--sentinel"]

    def url(self, db: int = 0) -> str:
        return f"sentinel://127.0.0.1:{self.port}/{db}"


def test_a_sentinel_is_not_configured_in_the_place_of_its_primary(
    database: Database, careless: Valkey
) -> None:
    with Sentinel(careless) as sentinel:
        walex = with_task(application(database, sentinel.url()))
        walex.app.conf.broker_transport_options = {"master_name": "shop"}
        found = only(ask(walex), "broker_durability")
    (step,) = found.fix
    assert step.how == "do"
    assert step.line.startswith("On the primary, in redis-cli: CONFIG SET appendonly yes")


@pytest.mark.parametrize("lacking", ["lpush", "smembers", "ping"])
def test_a_user_without_a_right_is_told_all_that_it_needs(
    database: Database, careless: Valkey, lacking: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By the doctor, and by the producer in the same words; nothing is written."""
    with careless.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", "on", ">word", "~*", "&*", "+@all", f"-{lacking}")
        url = f"redis://shop:word@127.0.0.1:{careless.port}/0"
        walex = with_task(application(database, url))
        walex.app.conf.task_queues = [Queue("celery", Exchange("shop", type="topic"), "#")]
        found = examine(walex, "celery -A shop")
        assert not client.exists("celery", "_kombu.binding.shop")
    check = "broker" if lacking == "ping" else "broker_durability"
    finding = next(made for made in found if made.check == check and made.severity == "error")
    assert "NOPERM" in finding.sentence
    told = f"{finding.sentence} {' '.join(step.line for step in finding.fix)}"
    assert fix_for("NOPERM").strip(" .") in told
    assert "Start the broker" not in told
    assert "password" not in told
    if lacking != "ping":
        log_weaknesses(walex.app, Context(walex, "").functions)
        (record,) = [made for made in caplog.records if made.levelno == logging.ERROR]
        assert finding.sentence in record.getMessage()
        assert fix_for("NOPERM").strip() in record.getMessage()
