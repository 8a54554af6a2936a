"""A real Flower shows the producer among the workers, and its tasks from the moment they are enqueued."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.operations.nodes import present
from tests.support import Database, wait_until
from tests.support.process import producer_process
from tests.support.producers import make_app
from walex_celery import Event, WalEx
from walex_celery.events.task_id import parse_task_id
from walex_celery.telemetry.report import node_name
from walex_celery.testing._system import free_port
from walex_celery.testing.servers import Valkey


class Flower:
    """What a running Flower answers."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=20) as answer:
            text: str = answer.read().decode()
            return text

    def answers(self) -> bool:
        try:
            return bool(self.get("/healthcheck"))
        except (urllib.error.URLError, OSError):
            return False

    def worker(self, node: str) -> dict[str, Any] | None:
        found = json.loads(self.get("/workers?json=1"))["data"]
        return next((worker for worker in found if worker["hostname"] == node), None)


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with Valkey() as valkey:
        yield valkey.url(0)


@pytest.fixture(scope="module")
def flower(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    port = free_port()
    log = tmp_path_factory.mktemp("flower") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "celery",
                f"--broker={broker}",
                "flower",
                "--address=127.0.0.1",
                f"--port={port}",
            ],
            env={**os.environ, "FLOWER_UNAUTHENTICATED_API": "true", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=output,
            stderr=output,
        )
        try:
            found = Flower(f"http://127.0.0.1:{port}")
            wait_until(lambda: found.answers() or process.poll() is not None, 60, "Flower answers")
            assert process.poll() is None, log.read_text()
            yield found
        finally:
            process.terminate()
            process.wait(20)


def test_the_producer_is_among_the_workers_with_its_counts_and_a_page(
    flower: Flower, broker: str, shop: Database
) -> None:
    app = make_app(broker)
    app.conf.task_send_sent_event = True
    app.conf.walex_url = shop.url
    walex = WalEx(
        app,
        name="shop",
        publication="events",
        subscriptions=["items"],
        durable_slot=True,
        slot_name=shop.name,
    )

    @app.task(name="shop.welcome")
    def welcome(event: Event) -> None:
        pass

    walex.on_insert("items", None, [welcome])(lambda events: None)
    with present(app, walex) as producer:
        shop.execute("INSERT INTO items VALUES (1, 'row data'), (2, 'row data')")
        online = wait_until(
            lambda: (found := flower.worker(producer.node)) and found["processed"] == 2 and found, 30
        )
        tasks = wait_until(
            lambda: (
                (found := json.loads(flower.get("/api/tasks?taskname=shop.welcome")))
                and len(found) == 2
                and found
            ),
            30,
        )
        # Flower asks each thing by itself, and waits a second for the answers: a busy machine may miss some.
        told = wait_until(
            lambda: (
                (found := json.loads(flower.get(f"/api/workers?refresh=1&workername={producer.node}")))
                and found[producer.node].keys() >= {"stats", "active_queues", "conf"}
                and found[producer.node]
            ),
            60,
        )
        page = flower.get(f"/worker/{producer.node}")

    assert (online["status"], online["sw_ident"], online["freq"]) == (True, "walex-celery", 2.0)
    # No worker runs: they are seen because they were enqueued.
    assert {task["state"] for task in tasks.values()} == {"PENDING"}
    assert {parse_task_id(id).index for id in tasks} == {0, 1}
    assert all(task["args"].startswith("<Event insert items") for task in tasks.values())
    assert all(task["client"] == producer.node for task in tasks.values())
    assert told["stats"]["walex_slot"] == shop.name
    assert told["stats"]["total"] == {"public.items insert": 2}
    assert told["active_queues"] == []
    assert told["conf"]["walex_publication"] == "events"
    assert "public.items insert" in page
    for text in (json.dumps(told), page, json.dumps(tasks)):
        assert shop.server.password not in text
        assert "row data" not in text
    wait_until(lambda: not (flower.worker(producer.node) or {"status": True})["status"], 30, "it is offline")


def test_a_producer_that_was_killed_goes_offline(
    flower: Flower, broker: str, shop: Database, tmp_path: Path
) -> None:
    node = node_name("crash")
    with producer_process(shop, broker, tmp_path / "log") as process:
        wait_until(lambda: (flower.worker(node) or {}).get("status"), 60, "it is online")

        process.kill()

        wait_until(lambda: not (flower.worker(node) or {"status": True})["status"], 60, "it is offline")


def test_with_flower_off_it_is_not_among_the_workers_and_answers_all_the_same(
    flower: Flower, broker: str, shop: Database
) -> None:
    app = make_app(broker)
    given = {"url": shop.url, "publication": "events", "subscriptions": ["items"]}
    hidden = WalEx(app, name="hidden", slot_name=f"hidden_{shop.name}", flower=False, **given)
    seen = WalEx(app, name="seen", slot_name=f"seen_{shop.name}", **given)
    for walex in (hidden, seen):
        walex.on_insert("items")(lambda events: None)
    with present(app, hidden) as silent, present(app, seen) as producer:
        wait_until(lambda: (flower.worker(producer.node) or {}).get("worker-heartbeat", 0) > 1, 30)

        assert flower.worker(silent.node) is None
