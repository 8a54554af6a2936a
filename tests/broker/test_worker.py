"""A real worker runs what was published, and gets its event (DESIGN section 4; promise 10)."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery.contrib.testing.worker import start_worker

from tests.broker.support import ARGSREPR, VALUE, make_app, new_id, publishing
from tests.support import wait_until
from tests.support.queues import drain
from walex_celery.events.event import Event

# Celery 5.7 deprecates routing by task attributes; as long as it honours them, so do we.
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*task attribute is deprecated")

OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "priority": ({"priority": 3}, {"task_queue_max_priority": 10}),
    "compression": ({"compression": "zlib"}, {}),
    "time limits": ({"time_limit": 60, "soft_time_limit": 50}, {}),
    "expires": ({"expires": 60}, {}),
    "quorum": ({}, {"task_default_queue_type": "quorum", "worker_detect_quorum_queues": True}),
    "prefix": ({}, {"broker_transport_options": {"global_keyprefix": "shop:"}}),
    "protocol 1": ({}, {"task_protocol": 1}),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_worker_runs_it_with_the_event(option: str, broker_url: str) -> None:
    task_options, conf = OPTIONS[option]
    if "amqp" in broker_url:
        conf = {name: value for name, value in conf.items() if name != "broker_transport_options"}
    # Heartbeats wake the worker's loop, so that it notices at once that it is to stop.
    app = make_app(broker_url, worker_hijack_root_logger=False, broker_heartbeat=1, **conf)
    done: queue.Queue[tuple[str, Any]] = queue.Queue()

    @app.task(name="shop.send", shared=False, bind=True, **task_options)
    def shop_send(self: Any, event: Event) -> None:
        done.put((self.request.id, event))

    with publishing(app) as publisher:
        function = publisher.prepare(shop_send)
        publisher.declare()
        ids = [new_id() for _ in range(3)]
        for task_id in ids:
            publisher.add(function, task_id, VALUE, ARGSREPR)
        publisher.flush()
        publisher.confirm()
        with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=20):
            received = [done.get(timeout=20) for _ in ids]
    assert [task_id for task_id, _ in received] == ids
    for _, event in received:
        assert isinstance(event, Event)
        assert dict(event.new_record or {}) == {"id": 42, "q": '"é😀\\'}


#: A worker's module on a host that has Celery only.
WITHOUT_WALEX = """
import sys

sys.modules["walex_celery"] = None  # as if it were not installed

import os
from celery import Celery

app = Celery("shop", broker=os.environ["BROKER_URL"])


@app.task(name="shop.send")
def send(event):
    print("GOT", event)


app.worker_main(["worker", "--pool=solo", "--loglevel=INFO"])
"""


def test_a_worker_without_walex_celery_drops_it(broker_url: str, tmp_path: Path) -> None:
    """Why workers are deployed first (README, docs/operations/producer.md)."""
    app = make_app(broker_url)

    @app.task(name="shop.send", shared=False)
    def shop_send(event: Event) -> None: ...

    with publishing(app) as publisher:
        function = publisher.prepare(shop_send)
        publisher.declare()
        publisher.add(function, new_id(), VALUE, ARGSREPR)
        publisher.flush()
        publisher.confirm()
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-c", WITHOUT_WALEX],
            env={**os.environ, "BROKER_URL": broker_url},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: "'Unsupported type'" in log.read_text(), 30, "the worker can't read it")
        finally:
            worker.terminate()
            worker.wait(30)
    text = log.read_text()
    assert "walex.event" in text
    assert "GOT" not in text
    assert drain(broker_url, "celery") == []
