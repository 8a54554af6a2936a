"""The broker became a read-only replica: one line that says so, and none of kombu's tracebacks (promise 8)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Task
from kombu.transport import redis as kombu_redis

from tests.operations.nodes import present
from tests.support import Database, wait_until
from tests.support.producers import make_app
from tests.support.queues import drain
from tests.support.shop import make_enqueuing, make_walex
from tests.support.slots import confirmed, written
from walex_celery import Event
from walex_celery.operations.remote.ask import ask
from walex_celery.testing.servers import Valkey


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    with Valkey(settings={"maxmemory-policy": "noeviction"}) as server:
        yield server


@pytest.fixture(autouse=True)
def _kombu_writes_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it listens, kombu refreshes its bindings every 20 minutes; here every second."""
    monkeypatch.setattr(kombu_redis, "BINDING_EXPIRES_FACTOR", 0)
    monkeypatch.setattr(kombu_redis, "MIN_BINDING_TTL", 3000)


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.exc_info]


def said(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    return [line for line in lines if text in line]


def test_remote_control_of_a_broker_that_became_a_replica(
    shop: Database, own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes back when the broker can be written to again."""
    app = make_app(own_valkey.url())
    walex = make_enqueuing(app, shop)
    with (
        caplog.at_level(logging.DEBUG, "walex_celery"),
        own_valkey.client() as client,
        present(app, walex) as producer,
    ):
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        wait_until(lambda: caplog.text.count("can't reach this producer now") >= 3, 30, "it tries again")
        client.execute_command("REPLICAOF", "NO", "ONE")
        asked = lambda: ask(app, "status", destination=[producer.node], timeout=2)  # noqa: E731
        wait_until(asked, 60, "it answers again")
    (line,) = said(caplog, "remote control and Flower can't reach this producer now")
    assert "READONLY" in line
    assert "It is a replica: point broker_url at the primary" in line
    assert tracebacks(caplog) == []


def test_remote_control_of_a_broker_without_memory(
    shop: Database, own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on listening."""
    app = make_app(own_valkey.url())
    walex = make_enqueuing(app, shop)
    with own_valkey.client() as client, present(app, walex) as producer:
        client.config_set("maxmemory", "1")
        try:
            wait_until(lambda: said(caplog, "OOM"), 30)
            app.control.broadcast("shutdown", destination=[producer.node])
            wait_until(lambda: producer.activity.now.doing.value == "ended", 30, "it has heard")
        finally:
            client.config_set("maxmemory", "0")
    assert len(said(caplog, "raise its maxmemory")) == 1
    assert tracebacks(caplog) == []


class Own(Task):  # type: ignore[misc, type-arg, unused-ignore]
    """Sends by itself."""

    abstract = True

    def apply_async(self, *args: Any, **options: Any) -> Any:
        return super().apply_async(*args, **options)


@pytest.mark.parametrize("way", ["template", "collect", "apply_async"])
def test_tasks_for_a_broker_that_became_a_replica(
    shop: Database, own_valkey: Valkey, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """In whichever way they are published: the reason is logged at each try, and they come when it is over."""
    app = make_app(own_valkey.url())
    if way == "collect":
        app.conf.task_routes = (lambda name, *args, **options: {"queue": "celery"},)
    walex = make_walex(app, shop)

    def index(event: Event) -> None: ...

    task: Any = app.task
    base = {"base": Own} if way == "apply_async" else {}
    walex.on_insert("items")(task(name="index", **base)(index))
    with own_valkey.client() as client, present(app, walex):
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        shop.execute("INSERT INTO items VALUES (1), (2)")
        wait_until(lambda: said(caplog, "READONLY You can't write against a read only replica"), 30)
        wait_until(lambda: said(caplog, "remote control and Flower can't reach"), 30)
        client.execute_command("REPLICAOF", "NO", "ONE")
        wait_until(lambda: confirmed(shop) >= written(shop), 60)
    assert {task.event.key["id"] for task in drain(own_valkey.url(), "celery") if task.event.key} == {1, 2}
    refusals = said(caplog, "READONLY")
    assert all("point broker_url at the primary" in line for line in refusals)
    assert tracebacks(caplog) == []
