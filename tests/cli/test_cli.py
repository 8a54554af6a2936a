"""``celery -A module walex ...`` as users run it: in a process of its own, with its exit codes (promises 8, 9)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support import Database, wait_until
from walex_celery import ConfigurationError, HandlerError, PublishRefused, SlotInUse, WalExError
from walex_celery.cli import exit_code, main
from walex_celery.errors import BrokerUnavailable, NoFreeSlot, PostgresUnavailable

PASSWORD = "hunter2"

MODULE = """
    from celery import Celery
    from walex_celery import WalEx

    app = Celery("shop", broker="memory://")
    walex = WalEx(app, publication="events", subscriptions=["users"])

    @walex.on_insert("users")
    def inserted(events):
        for event in events:
            print("handled", event.new_record["id"], flush=True)
            if event.new_record["name"] == "fail":
                raise ValueError("the handler's own words")
"""


class Shop:
    """A folder with a user's module, and the database that it listens to."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        self.slot = database.name
        (folder / "shop_app.py").write_text(dedent(MODULE))
        database.execute(
            "CREATE TABLE users (id int PRIMARY KEY, name text, document json);"
            " CREATE PUBLICATION events FOR TABLE users"
        )

    @contextmanager
    def running(self, *arguments: str, **environment: str) -> Iterator[Command]:
        """``celery -A shop_app walex *arguments``; killed at the end if it still runs."""
        paths = [str(self.folder), *filter(None, sys.path)]
        given = {
            "WALEX_URL": self.database.url,
            "WALEX_SLOT_NAME": self.slot,
            "PYTHONPATH": os.pathsep.join(paths),
            **environment,
        }
        log = self.folder / f"{'_'.join(arguments)}.log"
        with log.open("wb") as errors, (self.folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "shop_app", "walex", *arguments],
                cwd=self.folder,
                env={**os.environ, **given},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
            )
            try:
                yield Command(process, log, self.folder / "output")
            finally:
                process.kill()
                process.wait()

    def run(self, *arguments: str, **environment: str) -> Command:
        """The command, when it has ended by itself."""
        with self.running(*arguments, **environment) as command:
            command.process.wait(30)
            return command


class Command:
    """A process, and what it has written so far."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, output: Path) -> None:
        self.process = process
        self._log = log
        self._output = output

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def output(self) -> str:
        return self._output.read_text()

    @property
    def code(self) -> int | None:
        return self.process.returncode

    def until(self, text: str) -> None:
        wait_until(
            lambda: text in self.log + self.output or self.process.poll() is not None, 30, f"it says {text!r}"
        )
        assert text in self.log + self.output, self.log


@pytest.fixture
def shop(tmp_path: Path, database: Database) -> Shop:
    return Shop(tmp_path, database)


# walex producer.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_producer_well(number: signal.Signals, shop: Shop) -> None:
    with shop.running("producer", WALEX_DURABLE_SLOT="true") as command:
        command.until("streaming from")
        shop.database.execute("INSERT INTO users VALUES (1, 'a')")
        command.until("handled 1")
        command.process.send_signal(number)

        assert command.process.wait(20) == 0, command.log

    assert f"{number.name}: finishing the current batch" in command.log
    assert "is acknowledged" in command.log
    for told in (
        shop.slot,
        "publication events; subscribed to users",
        "on_insert(users) -> shop_app.inserted",
    ):
        assert told in command.log
    assert shop.database.server.password not in command.log


def test_bad_settings_are_78_and_nothing_was_touched(shop: Shop) -> None:
    command = shop.run("producer", WALEX_PORT="x", WALEX_SSLMODE="maybe", WALEX_SLOT_NAME="No")

    assert command.code == 78
    for setting in ("port", "sslmode", "slot_name"):
        assert f"\n  {setting}: " in command.log
    assert "Traceback" not in command.log
    assert shop.database.execute("SELECT FROM pg_replication_slots WHERE database = current_database()") == []


def test_a_malformed_url_with_a_password_is_78_without_it(shop: Shop) -> None:
    command = shop.run("producer", WALEX_URL=f"postgresql://me:1?{PASSWORD}=1@db/shop")

    assert command.code == 78
    assert "url: " in command.log
    assert PASSWORD not in command.log + command.output


def test_a_keyword_of_the_module_wins_over_the_environment(shop: Shop) -> None:
    with shop.running("producer", WALEX_PUBLICATION="none") as command:
        command.until("publication events")


def test_a_missing_publication_is_78_with_its_mend(shop: Shop) -> None:
    shop.database.execute("DROP PUBLICATION events")

    command = shop.run("producer")

    assert command.code == 78
    assert 'fix: CREATE PUBLICATION "events" FOR TABLE "public"."users"' in command.log
    assert "Traceback" not in command.log


def test_a_wrong_password_is_78_without_it(shop: Shop) -> None:
    url = shop.database.url.replace(shop.database.server.password, PASSWORD)

    command = shop.run("producer", WALEX_URL=url)

    assert command.code == 78
    assert "WALEX_PASSWORD" in command.log
    assert PASSWORD not in command.log


def test_a_slot_in_use_is_73(shop: Shop) -> None:
    with shop.running("producer", "--loglevel", "INFO", WALEX_DURABLE_SLOT="true") as first:
        first.until("streaming from")
        second = shop.run("producer", WALEX_DURABLE_SLOT="true")

    assert second.code == 73
    assert "SlotInUse" in second.log
    assert "--standby" in second.log


def test_a_failing_handler_is_70_with_its_traceback(shop: Shop) -> None:
    with shop.running("producer") as command:
        command.until("streaming from")
        shop.database.execute("INSERT INTO users VALUES (1, 'fail')")
        assert command.process.wait(20) == 70

    assert "ValueError: the handler's own words" in command.log
    assert "shop_app.inserted failed on 1 event(s)" in command.log
    assert "<Event insert users id=1" in command.log


def test_postgres_away_for_too_long_is_75(shop: Shop) -> None:
    command = shop.run("producer", WALEX_URL="postgresql://127.0.0.1:1/shop", WALEX_RECONNECT_TIMEOUT="0.1")

    assert command.code == 75
    assert "trying again" in command.log


def test_an_application_without_walex_is_told_how_to_make_one(shop: Shop) -> None:
    (shop.folder / "shop_app.py").write_text("from celery import Celery\napp = Celery('shop')\n")

    command = shop.run("producer")

    assert command.code == 78
    assert "walex = WalEx(app" in command.log


def test_one_of_several_is_chosen_by_name(shop: Shop) -> None:
    with (shop.folder / "shop_app.py").open("a") as module:
        module.write("other = WalEx(app, name='other', publication='events')\n")

    unnamed, wrong = shop.run("producer"), shop.run("producer", "--name", "wrong")

    assert (unnamed.code, wrong.code) == (78, 78)
    assert "choose a WalEx with --name: other, shop" in unnamed.log
    with shop.running("producer", "--name", "other") as command:
        command.until("streaming from")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SlotInUse(""), 73),
        (ConfigurationError(""), 78),
        (NoFreeSlot(""), 78),
        (HandlerError(""), 70),
        (PostgresUnavailable(""), 75),
        (BrokerUnavailable(""), 75),
        (PublishRefused(""), 75),
    ],
)
def test_exit_codes(error: WalExError, code: int) -> None:
    assert exit_code(error) == code


# walex tail.


def test_tail_prints_json_lines_when_piped(shop: Shop) -> None:
    with shop.running("tail", "--limit", "2") as command:
        command.until("following")
        shop.database.execute("INSERT INTO users VALUES (1, 'a', E'{\\n\"a\":\\r\\n1}')")
        shop.database.execute("DELETE FROM users")
        assert command.process.wait(20) == 0, command.log

    lines: list[dict[str, Any]] = [json.loads(line) for line in command.output.splitlines()]
    assert [(line["type"], line["name"]) for line in lines] == [("insert", "users"), ("delete", "users")]
    assert lines[0]["new_record"] == {"id": 1, "name": "a", "document": {"a": 1}}
    assert "handled" not in command.output, "no handler runs"


def test_tail_prints_text_for_people(shop: Shop) -> None:
    with shop.running("tail", "--text", "--limit", "1") as command:
        command.until("following")
        shop.database.execute("INSERT INTO users VALUES (1, E'two\\nlines \\x1b[31m')")
        assert command.process.wait(20) == 0, command.log

    (line,) = command.output.splitlines()
    assert r"insert   users " in line
    assert r"name=two\nlines \x1b[31m document=NULL" in line


def test_tail_of_some_tables(shop: Shop) -> None:
    shop.database.execute("CREATE TABLE other (id int); ALTER PUBLICATION events ADD TABLE other")
    with shop.running("tail", "--limit", "1", "other") as command:
        command.until("following")
        shop.database.execute("INSERT INTO users VALUES (1)")
        shop.database.execute("INSERT INTO other VALUES (1)")
        assert command.process.wait(20) == 0, command.log

    assert json.loads(command.output)["name"] == "other"


def test_tail_leaves_the_producer_s_slot_alone_and_none_behind(shop: Shop) -> None:
    slots = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    with shop.running("producer") as producer:
        producer.until("streaming from")
        with shop.running("tail") as command:
            command.until("following")
            assert len(shop.database.execute(slots)) == 2
            command.process.terminate()
            assert command.process.wait(20) == 0, command.log
        wait_until(lambda: shop.database.execute(slots) == [(shop.slot,)])


def test_tail_of_no_table_is_78(shop: Shop) -> None:
    command = shop.run("tail", "sales.")

    assert command.code == 78
    assert "names no table" in command.log
    assert "Traceback" not in command.log


# walex-celery.


def test_the_version() -> None:
    result = CliRunner().invoke(main, ["--version"])

    assert result.exit_code == 0
    assert "version" in result.output
