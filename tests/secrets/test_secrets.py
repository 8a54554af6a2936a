"""Promise 9: a password never reaches a log, a repr, an error, Flower or a task.

Every command of the command line is run with passwords that can be taken for nothing else, in the right
and in the wrong way; what each wrote is searched for them, and so are Flower's pages, and all that went through
the broker.
"""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
import threading
import traceback
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import pytest
from redis import Redis

from tests.secrets.shop import MARK, SHOP, base_environment, password
from tests.support import Database, wait_until
from walex_celery import Event, Producer, WalEx
from walex_celery.cli import walex as group
from walex_celery.testing._system import free_port
from walex_celery.testing.servers import Postgres, RabbitMQ, Valkey

#: How each command is run; one that runs until it is stopped has None as its last word.
COMMANDS: dict[str, list[str | None]] = {
    "config add": ["modules", "json"],
    "config remove": ["modules", "json"],
    "config replace": ["password", password("new")],
    "control config add": ["modules", "json"],
    "control config remove": ["modules", "json"],
    "control config replace": ["url", f"postgresql://shop:{quote(password('new'), safe='')}@db/shop"],
    "control pause": [],
    "control reload": [],
    "control resume": [],
    "control shutdown": [],
    "control status": [],
    "dead-letters discard": ["1", "--yes"],
    "dead-letters list": [],
    "dead-letters retry": ["1"],
    "dead-letters show": ["1"],
    "doctor": [],
    "producer": ["-l", "DEBUG", None],
    "setup": ["--yes"],
    "status": ["--json"],
    "tail": [None],
    "where": ["00000000-0000-8000-8000-000000000000"],
}


def leaves(command: click.Command, *path: str) -> Iterator[str]:
    """The commands that do something, by the words that call them."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from leaves(inner, *path, name)
    else:
        yield " ".join(path)


def test_every_command_is_among_those_that_are_searched() -> None:
    missing = set(leaves(group)) - COMMANDS.keys()
    assert not missing, (
        f"say in COMMANDS of this file how to run {sorted(missing)}, so that it is searched too"
    )


def assert_secret(text: str, where: str) -> None:
    """No password, in whichever form, is in *text*, nor in a message's encoded body."""
    bodies = [
        base64.b64decode(found, validate=False).decode(errors="replace")
        for found in re.findall(r'"body\\*": ?\\*"([A-Za-z0-9+/=]+)', text)
    ]
    for searched in (text, *bodies):
        found = re.search(rf".*{MARK}.*", searched, re.IGNORECASE)
        assert found is None, f"a password in {where}: {found.group()[:500]}"


def test_the_search_finds_what_is_there() -> None:
    secret = password("pg")
    body = base64.b64encode(f'[["{secret}"]]'.encode()).decode()
    for text in (
        secret,
        quote(secret, safe=""),
        json.dumps(secret),
        f'{{"body": "{body}"}}',
        f'"{{\\"body\\": \\"{body}\\"}}"',
    ):
        with pytest.raises(AssertionError, match="a password in here"):
            assert_secret(text, "here")
    assert_secret("postgresql://shop:***@db/shop", "here")


class Commands:
    """Runs ``celery -A shop ...`` in a folder, and keeps what each wrote."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        (folder / "shop.py").write_text(SHOP)
        self._folder = folder
        self._environment = base_environment() | environment
        self._numbers = count()
        self.outputs: dict[str, Path] = {}

    @contextmanager
    def running(self, *words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """A command that runs until the block ends, which ends it by SIGTERM; with the file of what it writes."""
        number = next(self._numbers)
        log = self._folder / f"{number}.log"
        self.outputs[f"{number}: {' '.join(words)} with {sorted(environment)}"] = log
        paths = f"{self._folder}:{':'.join(filter(None, sys.path))}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "shop", *words],
                cwd=self._folder,
                env=self._environment | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"} | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield process, log
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, words: Sequence[str | None], **environment: str) -> str:
        """Run to the end, or, with None as the last word, until something has been said; returns what was."""
        called = [word for word in words if word is not None]
        with self.running(*called, **environment) as (process, log):
            if None in words:
                wait_until(
                    lambda: log.stat().st_size > 0 or process.poll() is not None,
                    60,
                    f"{called} says something",
                )
            else:
                process.wait(90)
        return log.read_text(errors="replace")

    def assert_secret(self) -> None:
        """Nothing that was written has a password in it."""
        for words, log in self.outputs.items():
            assert_secret(log.read_text(errors="replace"), f"celery -A shop {words}")


@pytest.fixture(scope="module")
def locked_valkey() -> Iterator[Valkey]:
    with Valkey(password=password("vk")) as server:
        yield server


@pytest.fixture
def role_url(postgres: Postgres, database: Database) -> Iterator[str]:
    """The URL of the database for a role with a conspicuous password."""
    role = f"shop_{database.name}"
    database.execute(f"CREATE ROLE {role} SUPERUSER REPLICATION LOGIN PASSWORD %s", [password("pg")])
    database.execute(
        "CREATE TABLE items (id serial PRIMARY KEY, note text); CREATE PUBLICATION events FOR TABLE items;"
        "ALTER TABLE items REPLICA IDENTITY FULL"
    )
    database.execute("SELECT pg_create_logical_replication_slot('shop_walex', 'pgoutput')")
    yield postgres.url(database.name, user=role, password=password("pg"))
    postgres.drop_database(database.name)
    with postgres.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP ROLE {role}")


@pytest.fixture(params=["valkey", "rabbitmq"])
def locked_broker(request: pytest.FixtureRequest) -> str:
    """The URL of a broker that wants a conspicuous password."""
    if request.param == "valkey":
        valkey: Valkey = request.getfixturevalue("locked_valkey")
        with valkey.client() as client:
            client.flushall()
        return valkey.url()
    rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
    url: str = request.getfixturevalue("amqp_url")
    vhost = url.rsplit("/", 1)[1]
    with suppress(Exception):
        rabbitmq.ctl("delete_user", "shop")
    rabbitmq.ctl("add_user", "shop", password("mq"))
    rabbitmq.ctl("set_permissions", "-p", vhost, "shop", ".*", ".*", ".*")
    return f"amqp://shop:{quote(password('mq'), safe='')}@127.0.0.1:{rabbitmq.port}/{vhost}"


def test_nothing_that_is_said_or_sent_has_a_password_in_it(
    role_url: str, locked_broker: str, database: Database, tmp_path: Path
) -> None:
    # The application's own settings are what a worker shows to everyone.
    commands = Commands(tmp_path, {"SHOP_BROKER": locked_broker, "SHOP_URL": role_url})
    port = free_port()
    quiet = ("--pool", "solo", "-l", "DEBUG")
    with (
        sent_through(locked_broker) as sent,
        commands.running("walex", "producer", "-l", "DEBUG") as (producer, produced),
        commands.running("worker", "-E", *quiet) as (worker, worked),
        commands.running(
            "flower", f"--port={port}", "--address=127.0.0.1", FLOWER_UNAUTHENTICATED_API="true"
        ),
    ):
        wait_until(lambda: "streaming from" in produced.read_text(), 60, "the producer streams")
        wait_until(lambda: " ready." in worked.read_text(), 60, "the worker works")
        database.execute("INSERT INTO items (note) VALUES ('well'), ('task fails')")
        wait_until(lambda: "RuntimeError" in worked.read_text(), 60, "the task fails")
        for words in (("inspect", "conf"), ("inspect", "stats"), ("report",), ("status",)):
            commands.run(words)
        for name in sorted(COMMANDS, key=lambda name: name == "control shutdown"):
            commands.run(["walex", *name.split(), *COMMANDS[name]])
        pages = wait_until(lambda: flower_pages(port), 60, "Flower shows the worker")
        assert producer.wait(30) == 0
        assert worker.poll() is None
    commands.assert_secret()
    for page, text in pages.items():
        assert_secret(text, f"Flower's {page}")
    assert_secret("\n".join(sent), "what went through the broker")
    if locked_broker.startswith("redis"):
        assert any("shop.welcome" in line for line in sent)


@contextmanager
def sent_through(broker_url: str) -> Iterator[list[str]]:
    """All commands that a Valkey gets; nothing of RabbitMQ, which has no such thing."""
    sent: list[str] = []
    if not broker_url.startswith("redis"):
        yield sent
        return
    client = Redis.from_url(broker_url, socket_timeout=None)
    with client.monitor() as monitor:  # type: ignore[no-untyped-call]

        def listen() -> None:
            for command in monitor.listen():
                sent.append(command["command"])
                if command["command"].endswith("the end"):
                    return

        listening = threading.Thread(target=listen, daemon=True)
        listening.start()
        yield sent
        client.publish("walex", "the end")
        listening.join(10)
    client.close()


def flower_pages(port: int) -> dict[str, str]:
    """What Flower shows, by path; nothing before it knows the worker and the tasks."""
    try:
        workers = json.loads(_get(port, "/api/workers?refresh=1"))
        tasks = json.loads(_get(port, "/api/tasks"))
        if not workers or not tasks or not all("conf" in worker for worker in workers.values()):
            return {}
        paths = ["/", "/workers?json=1", "/tasks", "/broker", "/metrics", "/api/workers", "/api/tasks"]
        paths += [f"/worker/{quote(name)}" for name in workers]
        paths += [f"{page}/{task}" for task in tasks for page in ("/task", "/api/task/info")]
        return {path: _get(port, path) for path in paths}
    except OSError:
        return {}


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        body: bytes = answer.read()
        return body.decode()


def test_no_error_has_a_password_in_it(
    role_url: str, locked_valkey: Valkey, amqp_url: str, database: Database, tmp_path: Path
) -> None:
    broker = locked_valkey.url()
    commands = Commands(tmp_path, {"SHOP_BROKER": broker, "WALEX_URL": role_url})
    right, raw = quote(password("pg"), safe=""), password("pg")
    wrong = quote(password("wrong"), safe="")
    amqp = amqp_url.replace("guest:guest", f"guest:{wrong}")
    unreadable = [
        {"WALEX_URL": role_url.replace(right, raw)},
        {"WALEX_URL": role_url.replace("postgresql", "mysql")},
        {"WALEX_URL": role_url.replace("127.0.0.1:", "127.0.0.1:x")},
        {"WALEX_URL": f"{role_url}?nonsense={right}"},
        {"WALEX_URL": f"{role_url}/{right}"},
        {"WALEX_PORT": "x"},
        {"WALEX_URL": "", "WALEX_PASSWORD": raw},
        {"WALEX_URL": "", "WALEX_PASSWORD": raw, "WALEX_DATABASE": database.name, "WALEX_USERNAME": "nobody"},
    ]
    wrong_servers = {"WALEX_URL": role_url.replace(right, wrong)}
    runs = [(["walex", *name.split(), *words], wrong_servers) for name, words in COMMANDS.items()]
    runs += [(["walex", "doctor"], {"SHOP_BROKER": url}) for url in (broker.replace("vk", "no"), amqp)]
    producer: list[str | None] = ["walex", "producer", "-l", "DEBUG", None]
    away = {"SHOP_BROKER": broker.replace(str(locked_valkey.port), "1")}
    runs += [(producer, environment) for environment in (*unreadable, away, {"SHOP_BROKER": amqp})]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda run: commands.run(run[0], **run[1]), runs))
    assert len(commands.outputs) == len(runs)
    database.execute("INSERT INTO items (note) VALUES ('fail')")
    with commands.running("walex", "producer", "-l", "DEBUG") as (process, log):
        assert process.wait(60) == 70
    assert "RuntimeError" in log.read_text()
    commands.assert_secret()


def test_no_repr_has_a_password_in_it(role_url: str, locked_valkey: Valkey, database: Database) -> None:
    from celery import Celery

    app = Celery("shop", broker=locked_valkey.url(), set_as_current=False)
    options: dict[str, Any] = {"publication": "events", "subscriptions": ["items"], "durable_slot": True}
    walex = WalEx(app, name="shop", url=role_url, **options)
    arrived: list[str] = []

    @walex.on_event("items")
    def changed(events: list[Event]) -> None:
        arrived.append(shown(producer))
        arrived.append(shown(events[0]))
        producer.stop()

    producer = Producer(walex)
    database.execute("INSERT INTO items (note) VALUES ('x')")
    producer.run()
    assert len(arrived) == 2
    assert_secret("\n".join(arrived), "what an object shows")
    assert_secret(repr(producer.snapshot()), "the status")
    assert_secret(shown(walex), "WalEx")
    unreachable = WalEx(
        app, name="other", url=role_url.replace("127.0.0.1", "127.0.0.2"), connect_timeout=1, reconnect_timeout=0.1,
        **options,
    )  # fmt: skip
    unreachable.on_event("items")(changed)
    with pytest.raises(Exception, match="can't connect") as caught:
        Producer(unreachable).run()
    assert_secret("".join(traceback.format_exception(caught.value)), "an error")


def shown(thing: object) -> str:
    """The repr and the str of *thing* and of what it holds, three levels deep, as a debugger shows it."""
    texts, level = [], [thing]
    for _ in range(3):
        texts += [f"{one!r} {one}" for one in level]
        level = [held for one in level for held in getattr(one, "__dict__", {}).values()]
        level = [held for held in level if type(held).__module__.startswith(("walex_celery", "builtins"))]
    return "\n".join(texts)
