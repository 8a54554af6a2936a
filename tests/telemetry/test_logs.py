"""Log lines: Celery's own set-up is respected, and JSON has what each is about as fields."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.support import Database, wait_until
from tests.support.project import Project
from walex_celery.telemetry.log_fields import JsonFormatter

MODULE = """
    import logging
    from celery import Celery, signals
    from walex_celery import WalEx

    app = Celery("shop", broker="memory://")
    walex = WalEx(app, publication="events", subscriptions=["sales.users"])

    @walex.on_insert("sales.users")
    def inserted(events):
        logging.getLogger("shop").warning("the handler's own line")
        if events[0].new_record["name"] == "fail":
            raise ValueError("the handler's own words")
"""


class Shop:
    """A folder with a user's module, and the database that it listens to."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        self.write(MODULE)
        database.execute(
            "CREATE SCHEMA sales; CREATE TABLE sales.users (id int PRIMARY KEY, name text);"
            " CREATE PUBLICATION events FOR TABLE sales.users"
        )

    def write(self, *parts: str) -> None:
        """The user's module, of *parts*."""
        (self.folder / "shop_app.py").write_text("".join(map(dedent, parts)))

    @contextmanager
    def producer(self, *options: str) -> Iterator[Lines]:
        """``walex producer`` with *options*; killed at the end if it still runs."""
        environment = os.environ | {
            "WALEX_URL": self.database.url,
            "WALEX_SLOT_NAME": self.database.name,
            "PYTHONPATH": os.pathsep.join([str(self.folder), *filter(None, sys.path)]),
        }
        path = self.folder / "log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "shop_app", "walex", "producer", *options],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            yield Lines(process, path)
        finally:
            process.kill()
            process.wait()


class Lines:
    """What a producer has logged."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.process = process
        self._path = path

    @property
    def text(self) -> str:
        return self._path.read_text()

    @property
    def all(self) -> list[dict[str, Any]]:
        """The whole log, which is JSON, an object a line."""
        return [json.loads(line) for line in self.text.splitlines(keepends=True) if line.endswith("\n")]

    def until(self, text: str) -> None:
        wait_until(lambda: text in self.text or self.process.poll() is not None, 60, f"it logs {text!r}")
        assert text in self.text, self.text

    def one(self, message: str) -> dict[str, Any]:
        """The one line whose message has *message* in it."""
        [line] = [line for line in self.all if message in line["message"]]
        return line


@pytest.fixture
def shop(tmp_path: Path, database: Database) -> Shop:
    return Shop(tmp_path, database)


def test_each_line_is_json_and_says_what_it_is_about(shop: Shop) -> None:
    with shop.producer("--log-format", "json", "--metrics-port", "0") as log:
        log.until("streaming from")
        shop.database.execute("INSERT INTO sales.users VALUES (1, 'a'), (2, 'secret')")
        log.until("own line")
        log.process.terminate()
        assert log.process.wait(60) == 0

    for line in log.all:
        assert datetime.fromisoformat(line["time"]).utcoffset() is not None
        assert {"level", "logger", "message"} <= line.keys()
    started = log.one("streaming from")
    assert (started["slot"], started["database"]) == (shop.database.name, shop.database.name)
    own = log.one("own line")
    assert (own["level"], own["logger"]) == ("WARNING", "shop")
    assert (own["table"], own["type"], own["events"]) == ("sales.users", "insert", 2)
    assert own["handler"] == "shop_app.inserted"
    assert "/" in own["lsn"]
    assert isinstance(own["xid"], int)
    assert "/" in log.one("stopped; everything up to")["lsn"]
    assert "secret" not in log.text, "no row data"


START = """
    from celery import Celery
    from walex_celery import Filters, WalEx

    app = Celery("shop")
    walex = WalEx(app, publication="events", subscriptions=["users", "sales.orders"], durable_slot=True)

    @app.task
    def send_welcome_email(event): ...

    @walex.on_insert("users", Filters(unwatched_records={"event_subscribe": False}), ["send_welcome_email"])
    def users_inserted(events): ...

    @walex.on_update("sales.orders", Filters(unwatched_fields=["updated_at", "viewed_at"]))
    @app.task(expires=3600)
    def index(event): ...

    @walex.on_event("all", on_error="retry:limit=10")
    def count(events): ...
"""


def test_the_start_is_as_the_documentation_has_it(database: Database, redis_url: str, tmp_path: Path) -> None:
    """Each handler with its tables, functions and filters; the ways of publishing in words for users."""
    database.execute(
        "CREATE SCHEMA sales; CREATE TABLE users (id int PRIMARY KEY, event_subscribe bool);"
        " CREATE TABLE sales.orders (id int PRIMARY KEY, updated_at date, viewed_at date);"
        " ALTER TABLE sales.orders REPLICA IDENTITY FULL; CREATE PUBLICATION events FOR TABLE users, sales.orders"
    )
    project = Project(tmp_path)
    project.write({"shop.py": START})
    producer = ("-A", "shop", "walex", "producer", "--log-format", "json")
    settings = {"WALEX_URL": database.url, "CELERY_BROKER_URL": redis_url, "WALEX_SLOT_NAME": database.name}
    with project.command(*producer, **settings):
        wait_until(lambda: '"broker redis:' in project.output(*producer), 60, "it has logged the broker")
        output = project.output(*producer)
    lines = [json.loads(line) for line in output.splitlines(keepends=True) if line.endswith("\n")]

    page = (Path(__file__).parents[2] / "docs" / "operations" / "logs.md").read_text(encoding="utf-8")
    documented = page.partition("## At start")[2].partition("```\n")[2].partition("```")[0].splitlines()
    loggers = {"walex_celery.producer", "walex_celery.broker.publisher"}
    logged = [line["message"] for line in lines if line["logger"] in loggers and line["level"] == "INFO"]
    first, last = logged.index(documented[0]), next(n for n, m in enumerate(logged) if m.startswith("broker"))
    address = f"postgres@127.0.0.1:{database.server.port}/{database.name}"
    as_documented = [
        re.sub(r"redis://\S+", "redis://localhost:6379/0", re.sub(r"Postgres \d+", "Postgres 17", message))
        .replace(address, "shop@localhost:5432/shop")
        .replace(f"slot {database.name}", "slot shop_walex")
        for message in logged[first : last + 1]
    ]
    assert as_documented == documented
    ways = {line["task"]: line["way"] for line in lines if "way" in line}
    assert ways == {"shop.send_welcome_email": "template", "shop.index": "collect"}, "names stay as they are"
    about = [(line["handler"], line["table"]) for line in lines if " -> " in line["message"]]
    assert about == [
        ("shop.users_inserted", "users"), ("shop.index", "sales.orders"), ("shop.count", "all")
    ]  # fmt: skip


def test_what_ends_the_producer_is_a_line_with_its_traceback(shop: Shop) -> None:
    with shop.producer("--log-format", "json") as log:
        log.until("streaming from")
        shop.database.execute("INSERT INTO sales.users VALUES (1, 'fail')")
        assert log.process.wait(60) == 70

    last = log.all[-1]
    assert last["level"] == "CRITICAL"
    assert (last["table"], last["type"], last["handler"]) == ("sales.users", "insert", "shop_app.inserted")
    assert isinstance(last["xid"], int)
    assert last["lsn"] == log.one("own line")["lsn"]
    assert last["exception"] == "ValueError"
    assert "in inserted\n" in last["traceback"]
    assert "own words" in last["traceback"]


def test_a_wrong_setting_is_a_line_too(shop: Shop) -> None:
    with shop.producer("--log-format", "json", "--name", "other") as log:
        assert log.process.wait(60) == 78

    [line] = log.all
    assert line["level"] == "CRITICAL"
    assert line["exception"] == "ConfigurationError"


def test_text_is_as_the_application_has_it(shop: Shop) -> None:
    shop.write(MODULE, 'app.conf.worker_log_format = "MINE %(levelname)s %(name)s: %(message)s"\n')
    with shop.producer() as log:
        log.until("MINE INFO walex_celery.producer: streaming from")


def test_an_application_that_sets_logging_up_keeps_it(shop: Shop) -> None:
    own_set_up = """
        @signals.setup_logging.connect
        def set_up(**_):
            logging.basicConfig(level="INFO", format="OURS %(message)s")
    """
    shop.write(MODULE, own_set_up)
    with shop.producer("--log-format", "json") as log:
        log.until("OURS streaming from")
        assert "OURS --log-format json is ignored: the application" in log.text
        assert all(line.startswith(("OURS ", "  ")) for line in log.text.splitlines())


def test_a_file_gets_json_too(shop: Shop) -> None:
    with shop.producer("--log-format", "json", "--logfile", str(shop.folder / "walex.log")):
        path = shop.folder / "walex.log"
        wait_until(lambda: path.exists() and "streaming from" in path.read_text(), 30)
        assert all(json.loads(line)["message"] for line in path.read_text().splitlines())


def test_the_metrics_port_is_told_and_answers(shop: Shop) -> None:
    with shop.producer("--log-format", "json", "--metrics-port", "0", "--metrics-host", "127.0.0.1") as log:
        log.until("serving /metrics, /healthz and /readyz")
        port = log.one("serving /metrics")["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b"walex_build_info{" in answer.read()
        log.until("streaming from")
        log.process.terminate()
        assert log.process.wait(60) == 0


def test_a_metrics_port_in_use_is_78_before_anything_is_touched(shop: Shop) -> None:
    with shop.producer("--log-format", "json", "--metrics-port", "0") as first:
        first.until("serving /metrics")
        port = first.one("serving /metrics")["port"]
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "shop_app",
            "walex",
            "producer",
            "--metrics-port",
            str(port),
        ]
        environment = os.environ | {
            "WALEX_URL": "postgresql://127.0.0.1:1/shop",
            "PYTHONPATH": os.pathsep.join([str(shop.folder), *filter(None, sys.path)]),
        }
        second = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=30, check=False
        )

    assert second.returncode == 78
    assert "Address already in use" in second.stderr
    assert "--metrics-port" in second.stderr
    assert "Traceback" not in second.stderr


class Odd:
    """What a user may put into a field."""

    def __str__(self) -> str:
        return "odd \ud800"


@pytest.mark.parametrize(
    "extra",
    [{"odd": Odd()}, {"odd": {1: float("nan"), (2,): {3}}}, {"odd": "\ud800"}, {"odd": b"\xff\n"}],
    ids=["object", "mapping", "surrogate", "bytes"],
)
def test_any_field_makes_one_line_of_json(extra: dict[str, object]) -> None:
    record = logging.makeLogRecord({"msg": "two\nlines %s", "args": ("é",), "level": "mine", **extra})

    line = JsonFormatter().format(record)

    assert "\n" not in line
    found = json.loads(line)
    assert "two\nlines é" in found["message"] or "two\\nlines" in found["message"]
    assert "odd" in found
    assert found["level"] != "mine", "a field does not hide what every line has"
