"""``walex dead-letters`` and what a crash leaves, as users meet them: in processes of their own."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from tests.operations.support import application, command, ignore
from tests.support import Database, wait_until
from tests.support.failpoints import armed
from tests.support.producers import running
from tests.support.project import Project
from tests.support.queues import drain
from tests.support.slots import confirmed, written
from walex_celery import Event, WalEx
from walex_celery.cli.dead_letters import dead_letters
from walex_celery.dead_letters import open_dead_letters, schema_sql
from walex_celery.testing.servers import Valkey

MODULE = """
    from celery import Celery
    from walex_celery import WalEx

    app = Celery("shop", broker="memory://")
    walex = WalEx(app, publication="events", subscriptions=["users"], durable_slot=True, on_error="dead_letter")

    @walex.on_insert("users")
    def fragile(events):
        raise ValueError("the handler's own words")
"""


@pytest.fixture
def shop(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    database.execute(
        "CREATE TABLE users (id int PRIMARY KEY, name text); CREATE PUBLICATION events FOR ALL TABLES"
    )
    for statement in schema_sql():
        database.execute(statement)
    return database


class Fragile:
    """A batch handler that fails while it is broken."""

    __name__ = "fragile"

    def __init__(self) -> None:
        self.broken = True
        self.seen: list[int] = []

    def __call__(self, events: list[Event]) -> None:
        if self.broken:
            raise ValueError("ada@example.com is taken")
        self.seen += [event.new_record["id"] for event in events]


@pytest.fixture
def fragile() -> Fragile:
    return Fragile()


@pytest.fixture
def walex(shop: Database, redis_url: str, fragile: Fragile) -> Iterator[WalEx]:
    """With two letters of two transactions."""
    walex = application(shop, redis_url, on_error="dead_letter", durable_slot=True)
    walex.on_insert("users")(fragile)
    with running(walex):
        shop.execute("INSERT INTO users VALUES (1, 'Ada'), (2, 'Grace')")
        shop.execute("INSERT INTO users VALUES (3, 'Barbara')")
        end = written(shop)
        wait_until(lambda: confirmed(shop) >= end, 20)
    yield walex
    shop.execute("SELECT pg_drop_replication_slot(%s)", [shop.name])


def run(walex: WalEx, name: str, *arguments: str) -> Result:
    chosen = dead_letters.commands[name]
    assert isinstance(chosen, click.Command)
    return command(walex, chosen, *arguments)


def ids(walex: WalEx) -> list[str]:
    with open_dead_letters(walex.settings) as letters:
        return [letter.id for letter in letters.summaries()]


def test_list_shows_what_failed_and_no_row_data(walex: WalEx) -> None:
    output = run(walex, "list").output
    lines = output.splitlines()
    assert lines[0].split()[0] == "id"
    assert [line.split()[0] for line in lines[1:3]] == ids(walex)
    assert "tests.dead_letters.test_commands.fragile" in lines[1]
    assert "ValueError" in lines[1]
    assert lines[3] == f"2 in table walex.dead_letters of {walex.settings.address()}"
    as_json = run(walex, "list", "--json").output
    first = json.loads(as_json.splitlines()[0])
    assert (first["event_count"], first["tables"], first["tries"]) == (2, ["users"], 1)
    for text in ("Ada", "ada@example.com"):
        assert text not in output + as_json


def test_list_can_be_narrowed(walex: WalEx) -> None:
    assert len(run(walex, "list", "--json", "--table", "public.users").output.splitlines()) == 2
    assert run(walex, "list", "--json", "--table", "orders").output == ""
    assert run(walex, "list", "--json", "--handler", "another").output == ""
    assert "no dead letters in table" in run(walex, "list", "--handler", "another").output


def test_show_tells_the_error_and_the_events_when_asked(walex: WalEx) -> None:
    first = ids(walex)[0]
    output = run(walex, "show", first).output
    assert f"stored in:    table walex.dead_letters of {walex.settings.address()}" in output
    assert "fragile on_insert(users)" in output
    assert "ValueError: ada@example.com is taken" in output
    assert "Grace" not in output
    events = [
        json.loads(line)
        for line in run(walex, "show", "--events", first).output.splitlines()
        if line.startswith("{")
    ]
    assert [event["new_record"]["name"] for event in events] == ["Ada", "Grace"]


def test_retry_keeps_what_fails_again_and_removes_what_does_not(walex: WalEx, fragile: Fragile) -> None:
    first, second = ids(walex)
    failed = run(walex, "retry", "--all")
    assert failed.exit_code == 70
    assert failed.output.count("failed again: ValueError (try 2)") == 2
    fragile.broken = False

    done = run(walex, "retry", second)

    assert (done.exit_code, fragile.seen) == (0, [3])
    assert done.output.startswith(f"{second}  done: 1 event(s) of ")
    assert ids(walex) == [first]
    assert run(walex, "retry", "--all").exit_code == 0
    assert fragile.seen == [3, 1, 2]
    assert ids(walex) == []


def test_retry_of_a_handler_that_is_gone_keeps_the_letter(walex: WalEx, shop: Database) -> None:
    other = application(shop)
    failed = run(other, "retry", "--all")
    assert failed.exit_code == 78
    assert "which is not registered any more" in failed.output
    assert len(ids(walex)) == 2


def test_retry_of_a_task_enqueues_it_with_its_id(shop: Database, redis_url: str) -> None:
    walex = application(shop, redis_url, on_error="dead_letter", durable_slot=True)
    broken = True

    def route(name: str, args: Any, *_: object, **__: object) -> None:
        if broken and Event.from_json(args[0]["__value__"]).index == 1:
            raise LookupError("no queue for it")

    walex.app.conf["task_routes"] = (route,)
    walex.on_insert("users", functions=["shop.index"])(ignore)
    with running(walex):
        shop.execute("INSERT INTO users VALUES (1), (2)")
        end = written(shop)
        wait_until(lambda: confirmed(shop) >= end, 20)
    shop.execute("SELECT pg_drop_replication_slot(%s)", [shop.name])
    assert len(drain(redis_url, "celery")) == 1
    with open_dead_letters(walex.settings) as letters:
        (letter,) = letters.summaries()
    assert run(walex, "retry", letter.id).exit_code == 70
    assert drain(redis_url, "celery") == []
    broken = False
    assert run(walex, "retry", letter.id).exit_code == 0
    ((id, name, event),) = drain(redis_url, "celery")
    assert (id, name, event.key) == (letter.task_id, "shop.index", {"id": 2})
    assert ids(walex) == []


def test_retry_of_a_task_that_the_broker_does_not_confirm_keeps_the_letter(shop: Database) -> None:
    """It refuses the task, and nothing else."""
    broken = True

    def route(name: str, args: Any, *_: object, **__: object) -> None:
        if broken:
            raise LookupError("no queue for it")

    with Valkey() as broker, broker.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", "on", ">pass-word", "~*", "&*", "+@all", "-lpush")
        url = f"redis://shop:pass-word@127.0.0.1:{broker.port}/0"
        walex = application(shop, url, on_error="dead_letter", durable_slot=True)
        walex.app.conf["task_routes"] = (route,)
        walex.on_insert("users", functions=["shop.index"])(ignore)
        with running(walex):
            shop.execute("INSERT INTO users VALUES (1)")
            end = written(shop)
            wait_until(lambda: confirmed(shop) >= end, 20)
        shop.execute("SELECT pg_drop_replication_slot(%s)", [shop.name])
        (id,) = ids(walex)
        broken = False
        failed = run(walex, "retry", id)
        assert failed.exit_code != 0
        assert "NOPERM" in failed.output
        assert ids(walex) == [id]
        client.execute_command("ACL", "SETUSER", "shop", "+lpush")
        assert run(walex, "retry", id).exit_code == 0
        assert [task.event.key for task in drain(url, "celery")] == [{"id": 1}]
    assert ids(walex) == []


def test_discard(walex: WalEx) -> None:
    first, second = ids(walex)
    assert run(walex, "discard", "--all", "--older-than", "1h").output == "0 discarded\n"
    assert run(walex, "discard", first).output == "1 discarded\n"
    assert ids(walex) == [second]
    assert run(walex, "discard", "--all", "--older-than", "0s").output == "1 discarded\n"
    assert ids(walex) == []


@pytest.mark.parametrize("arguments", [[], ["0" * 16], ["--all", "0" * 16], ["--handler", "x", "0" * 16]])
@pytest.mark.parametrize("name", ["retry", "discard"])
def test_what_is_not_named_is_not_touched(shop: Database, name: str, arguments: list[str]) -> None:
    failed = run(application(shop), name, *arguments)
    assert failed.exit_code == 78
    assert "dead letter" in failed.output


def test_a_wrong_age_is_told(shop: Database) -> None:
    assert (
        "not a duration such as 90s"
        in run(application(shop), "discard", "--all", "--older-than", "soon").output
    )


def test_kill_9_between_storing_and_acknowledging_makes_one_letter(shop: Database, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write({"shop_app.py": MODULE})
    arguments = ("-A", "shop_app", "walex", "producer")

    def stored() -> list[tuple[Any, ...]]:
        return shop.execute("SELECT id, failed_at, tried_at FROM walex.dead_letters")

    environment = {"WALEX_URL": shop.url, "WALEX_SLOT_NAME": shop.name}
    try:
        with project.command(*arguments, **environment, WALEX_FAILPOINTS=armed("letter-stored")) as process:
            wait_until(lambda: "streaming from" in project.output(*arguments), 60)
            shop.execute("INSERT INTO users VALUES (1, 'Ada')")
            end = written(shop)
            wait_until(lambda: process.poll() is not None, 60, "it is killed once the letter is stored")
            assert process.returncode == -signal.SIGKILL
            ((id, failed_at, _),) = stored()
            assert confirmed(shop) < end
        with project.command(*arguments, **environment):
            wait_until(lambda: confirmed(shop) >= end, 60, "the redelivery is acknowledged")
        ((again, first, last),) = stored()
        assert (again, first) == (id, failed_at)
        assert last - first > timedelta(0), "it was delivered twice"

        listing = ("-A", "shop_app", "walex", "dead-letters", "list")
        with project.command(*listing, **environment) as process:
            assert process.wait(60) == 0, project.output(*listing)
        assert id in project.output(*listing)
    finally:
        shop.execute("SELECT pg_drop_replication_slot(%s)", [shop.name])
