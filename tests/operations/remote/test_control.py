"""``walex control``: producers asked through the broker, on each kind of broker."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.operations.nodes import command, present
from tests.support import Database, wait_until
from tests.support.process import producer_process
from tests.support.producers import make_app, running, working
from tests.support.shop import collect, make_walex
from walex_celery import Producer
from walex_celery.broker.redis.errors import fix_for
from walex_celery.cli import EXIT_CONFIGURATION, EXIT_ERROR, EXIT_GAVE_UP, EXIT_NO_PRODUCER, EXIT_OK
from walex_celery.errors import ConfigurationError
from walex_celery.operations.monitor.flower import Presence
from walex_celery.operations.remote.ask import ask
from walex_celery.operations.remote.node import REMOTE_KEYS, SECRET_KEYS, Remote, RemoteNode
from walex_celery.settings.changes import REPLACE_KEYS
from walex_celery.testing.servers import Valkey


def test_all_commands_on_each_broker(broker_url: str, shop: Database) -> None:
    app = make_app(broker_url)
    walex = make_walex(app, shop)
    events = collect(walex, "all")
    with present(app, walex) as producer:
        paused = command(app, "control", "pause")
        wait_until(lambda: producer.activity.now.doing.value == "paused")
        shop.execute("INSERT INTO items VALUES (1); INSERT INTO parts VALUES (1)")
        status = command(app, "control", "status")
        added = command(app, "config", "add", "subscriptions", "parts")
        same = command(app, "control", "config", "add", "subscriptions", "parts")
        missing = command(app, "config", "add", "subscriptions", "part")
        resumed = command(app, "control", "resume")
        wait_until(lambda: len(events) == 2)
        ended = command(app, "control", "shutdown")
        wait_until(lambda: producer.activity.now.doing.value == "ended")

    assert [result.exit_code for result in (paused, status, added, same, resumed, ended)] == [EXIT_OK] * 6
    assert paused.output.startswith(f"{producer.node}: pauses at the next transaction boundary")
    assert f"{producer.node}: paused, " in status.output
    assert "subscriptions is now items, parts" in added.output
    assert same.output == added.output
    assert "has no such table (did you mean parts?)" in missing.output
    assert "  fix: Create it" in missing.output


def test_no_producer_is_an_error_with_an_exit_code_of_its_own(app: Celery, shop: Database) -> None:
    make_walex(app, shop)

    result = command(app, "control", "pause", "--timeout", "0.2")

    assert result.exit_code == EXIT_NO_PRODUCER
    assert "no producer did not answer" not in result.stderr
    assert "no producer answered within 0.2 s" in result.stderr


def test_a_broker_that_is_away_is_said_without_its_password(shop: Database) -> None:
    app = make_app("redis://:hunter2@127.0.0.1:1/0")
    make_walex(app, shop)

    result = command(app, "control", "pause")

    assert result.exit_code == EXIT_GAVE_UP
    assert "could not be reached" in result.stderr
    assert "hunter2" not in result.stderr


def test_a_secret_is_refused_before_it_is_sent_and_where_it_arrives(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    remote = Remote(app, walex, Producer(walex), "shop")
    before = walex.settings
    for key in SECRET_KEYS:
        sent = command(app, "config", "replace", key, "hunter2")
        with pytest.raises(ConfigurationError, match="never sent through the broker"):
            remote.config("replace", key, "hunter2")

        assert sent.exit_code == EXIT_CONFIGURATION
        assert "control reload" in sent.stderr
        assert "hunter2" not in sent.stderr
    assert walex.settings is before


def test_every_setting_that_may_change_is_either_remote_or_secret() -> None:
    assert REMOTE_KEYS | SECRET_KEYS == REPLACE_KEYS
    assert not REMOTE_KEYS & SECRET_KEYS
    assert {"password", "url", "sslkey", "modules", "message_middleware"} <= SECRET_KEYS


def test_a_change_that_is_wrong_is_refused_with_the_reason(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    collect(walex, "all")
    with present(app, walex):
        result = command(app, "config", "replace", "slot_name", "No Slot")

    assert result.exit_code == EXIT_ERROR
    assert "refused" in result.stderr
    assert "can't name a slot" in result.stderr


def test_a_change_that_would_end_the_producer_is_refused(
    app: Celery, shop: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.execute("SELECT pg_create_physical_replication_slot('physical')")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    walex = make_walex(app, shop)
    events = collect(walex, "all")
    changes = {
        ("add", "publication", "typo"): "CREATE PUBLICATION",
        ("replace", "publication", "typo"): "CREATE PUBLICATION",
        ("replace", "database", "no_such_database"): "no_such_database",
        ("replace", "database", "postgres"): "is of database",
        ("replace", "durable_slot", "false"): "is durable",
        ("replace", "slot_name", "physical"): "is a physical one",
        ("add", "modules", "antigravity"): "never sent through the broker",
        ("remove", "modules", "antigravity"): "never sent through the broker",
    }
    with present(app, walex) as producer:
        before = walex.settings
        for change, reason in changes.items():
            result = command(app, "config", *change, "--timeout", "5")
            assert result.exit_code in (EXIT_ERROR, EXIT_CONFIGURATION), change
            assert reason in result.stderr, (change, result.stderr)
        assert walex.settings is before
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: len(events) == 1)
        assert producer.statistics.connects == 1
    shop.execute("SELECT pg_drop_replication_slot('physical')")


def test_dead_letters_that_can_not_be_stored_are_refused(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop, dead_letters="postgres")
    collect(walex, "all")
    with present(app, walex) as producer:
        result = command(app, "config", "replace", "on_error", "dead_letter", "--timeout", "5")
        assert producer.activity.now.doing.value == "streaming"

    assert result.exit_code == EXIT_ERROR
    assert "walex setup" in result.stderr


def test_the_slot_that_is_left_is_named(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    events = collect(walex, "all")
    with present(app, walex) as producer:
        result = command(app, "config", "replace", "slot_name", "other", "--timeout", "5")
        wait_until(lambda: producer.statistics.connects == 2)
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: len(events) == 1)

    assert result.exit_code == EXIT_OK
    assert "slot_name is now other" in result.output
    assert "SELECT pg_drop_replication_slot('shop_walex');" in result.output


def test_reload_takes_what_the_file_says_now(
    app: Celery, shop: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    walex = make_walex(app, shop)
    collect(walex, "all")
    with present(app, walex) as producer:
        unchanged = command(app, "control", "reload")
        (tmp_path / ".env").write_text("WALEX_SSLMODE=disable\n")
        changed = command(app, "control", "reload")
        wait_until(lambda: producer.statistics.connects == 2)
        (tmp_path / ".env").write_text("WALEX_SSLMODE=perhaps\n")
        wrong = command(app, "control", "reload")

    assert "nothing has changed" in unchanged.output
    assert "changed: sslmode" in changed.output
    assert (wrong.exit_code, "refused" in wrong.stderr) == (EXIT_ERROR, True)


def test_instances_and_nodes_are_told_apart(app: Celery, shop: Database) -> None:
    first, second = make_walex(app, shop), make_walex(app, shop, name="other")
    collect(first, "all")
    collect(second, "all")
    with present(app, first) as one, present(app, second) as two:
        by_name = ask(app, "pause", name="other")
        by_node = ask(app, "pause", destination=[one.node])
        everyone = ask(app, "status")
        none = command(app, "control", "resume", "--name", "shop", "-d", two.node, "-t", "0.3")
        ask(app, "resume")

    assert [reply.node for reply in by_name] == [two.node]
    assert [reply.node for reply in by_node] == [one.node]
    assert [reply.node for reply in everyone] == sorted([one.node, two.node])
    assert none.exit_code == EXIT_NO_PRODUCER


def test_one_that_stands_by_has_a_name_of_its_own_and_answers(
    app: Celery, shop: Database, redis_url: str, tmp_path: Path
) -> None:
    def states() -> list[str]:
        return sorted(reply.answer["state"] for reply in ask(app, "status", name="crash"))

    with producer_process(shop, redis_url, tmp_path / "first.log", "--standby") as first:
        wait_until(lambda: states() == ["streaming"], 60)
        with producer_process(shop, redis_url, tmp_path / "second.log", "--standby"):
            wait_until(lambda: states() == ["standing by", "streaming"], 60)

            first.kill()

            wait_until(lambda: states() == ["streaming"], 60)


def test_workers_are_not_disturbed_and_their_commands_pass_a_producer_over(
    app: Celery, shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    walex = make_walex(app, shop)
    collect(walex, "all")
    caplog.set_level(logging.INFO)
    with present(app, walex) as producer, working(app):
        app.control.rate_limit("celery.ping", "1/s")
        app.control.enable_events()
        app.control.shutdown(destination=["celery@elsewhere"])
        pongs = app.control.inspect(timeout=2).ping() or {}
        memory = app.control.inspect(timeout=1).memdump() or {}
        named = app.control.inspect([producer.node], timeout=2).memdump() or {}
        command(app, "control", "pause")
        command(app, "control", "resume")

    assert pongs[producer.node] == {"ok": "pong"}
    assert len(pongs) == 2
    assert producer.node not in memory
    assert "not a worker" in named[producer.node]["error"]
    assert not [
        record for record in caplog.records if record.levelno >= logging.WARNING and "pidbox" in record.name
    ]


def test_celery_control_shutdown_ends_a_producer_only_by_its_name(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    collect(walex, "all")
    with present(app, walex) as producer:
        app.control.shutdown()
        assert ask(app, "status", destination=[producer.node])[0].answer["state"] == "streaming"

        app.control.shutdown(destination=[producer.node])

        wait_until(lambda: producer.activity.now.doing.value == "ended")


def test_it_can_be_asked_again_when_the_broker_is_back(shop: Database) -> None:
    with Valkey() as valkey:
        app = make_app(valkey.url(0))
        walex = make_walex(app, shop)
        events = collect(walex, "all")
        with present(app, walex) as producer:
            valkey.stop("immediate")
            shop.execute("INSERT INTO items VALUES (1)")
            wait_until(lambda: len(events) == 1)
            valkey.start()

            wait_until(lambda: ask(app, "status", destination=[producer.node]), 30, "it answers again")


def test_a_redis_user_needs_no_more_commands_than_its_error_names(shop: Database) -> None:
    granted = re.findall(r"\+[@a-z]+", fix_for("NOPERM"))
    with Valkey() as valkey:
        with valkey.client() as client:
            client.execute_command("ACL", "SETUSER", "shop", "on", ">pass-word", "~*", "&*", *granted)
        app = make_app(f"redis://shop:pass-word@127.0.0.1:{valkey.port}/0")
        walex = make_walex(app, shop)
        events = collect(walex, "all")
        with present(app, walex) as producer:
            shop.execute("INSERT INTO items VALUES (1)")
            wait_until(lambda: len(events) == 1)
            assert ask(app, "pause", destination=[producer.node], timeout=5)[0].error is None


def test_where_remote_control_is_off_nothing_listens(app: Celery, shop: Database) -> None:
    app.conf.worker_enable_remote_control = False
    walex = make_walex(app, shop, flower=False)
    collect(walex, "all")
    with running(walex) as producer, Presence(app, walex, producer):
        assert "walex-presence" not in {thread.name for thread in threading.enumerate()}


def test_arguments_that_make_no_sense_are_told_to_who_sent_them(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    control: Any = app.control
    node = RemoteNode("walex.shop@host", Remote(app, walex, Producer(walex), "shop"), None, control.mailbox)

    assert "error" in node.handle("walex_config", {"wrong": 1})
    assert "error" in node.handle("walex_config", {"action": "drop", "key": "subscriptions", "value": "x"})
