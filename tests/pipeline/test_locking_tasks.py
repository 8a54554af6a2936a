"""Tasks whose ``apply_async`` takes a lock, as celery-singleton's and celery-once's do (promises 1, 8).

The lock is taken when the message is made. An event that comes again finds it taken, and no message is made: so the
message must be in the broker before anything can happen to the producer.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from tests.support import Database, wait_until
from tests.support.failpoints import armed, killed_at
from tests.support.producers import make_app, running
from tests.support.project import Project
from tests.support.queues import drain
from tests.support.shop import make_walex
from walex_celery import Event, WalEx
from walex_celery.errors import PublishRefused
from walex_celery.telemetry.activity import Doing
from walex_celery.testing.servers import Valkey

ROWS = 100

#: celery-singleton's own way: the lock is a key of task and arguments that holds the task's id; it is released when the
#: task has run, and when its message could not be sent.
SINGLETON = """
from celery import Task
from celery.result import AsyncResult
from kombu.utils.json import dumps


class Singleton(Task):
    abstract = True
    locks = None  # a redis client

    def apply_async(self, args=None, kwargs=None, task_id=None, **options):
        lock = f"SINGLETON:{self.name}:{dumps([args, kwargs])}"
        if self.locks.set(lock, task_id, nx=True):
            try:
                return super().apply_async(args, kwargs, task_id=task_id, **options)
            except Exception:
                self.locks.delete(lock)
                raise
        return AsyncResult(self.locks.get(lock).decode(), app=self.app)
"""

APPLICATION = """
import os
from celery import Celery
from redis import Redis
from singleton import Singleton
from walex_celery import WalEx

app = Celery("shop")
walex = WalEx(app, publication="events", subscriptions=["items"], durable_slot=True)


@walex.on_insert("items")
@app.task(base=Singleton, locks=Redis.from_url(os.environ["LOCKS_URL"]))
def single(event): ...
"""

PRODUCER = ("-A", "shop_app", "walex", "producer")


@pytest.fixture
def locks(valkey: Valkey) -> Redis:
    client = valkey.client(0)
    for key in client.scan_iter("SINGLETON:*"):
        client.delete(key)
    return client


def test_a_kill_loses_none_whose_lock_was_taken(
    shop: Database, redis_url: str, valkey: Valkey, locks: Redis, tmp_path: Path
) -> None:
    """Killed when all locks of a transaction are taken, and its batch is about to be written."""
    project = Project(tmp_path)
    project.write({"singleton.py": SINGLETON, "shop_app.py": APPLICATION})
    environment = {
        "CELERY_BROKER_URL": redis_url,
        "LOCKS_URL": valkey.url(0),
        "WALEX_URL": shop.url,
        "WALEX_SLOT_NAME": shop.name,
    }
    with project.command(*PRODUCER, **environment, WALEX_FAILPOINTS=armed("tasks-added")) as process:
        wait_until(lambda: "streaming from" in project.output(*PRODUCER), 60)
        shop.execute("INSERT INTO items SELECT generate_series(1, %s)", [ROWS])
        killed_at(process, "tasks-added", project.folder / ("_".join(PRODUCER) + ".log"))
    assert len(list(locks.scan_iter("SINGLETON:*"))) == ROWS

    with project.command(*PRODUCER, **environment) as process:
        found = set[int]()

        def all_there() -> bool:
            found.update(key(task.event) for task in drain(redis_url, "celery"))
            return len(found) == ROWS

        wait_until(all_there, 60, "each row has its task")


def key(event: Event) -> int:
    assert event.new_record is not None
    return int(event.new_record["id"])


def make_locking(app: Celery, database: Database, locks: Redis, **settings: Any) -> WalEx:
    """Inserts into items are enqueued as a task that takes a lock."""
    namespace: dict[str, Any] = {}
    exec(SINGLETON, namespace)
    walex = make_walex(app, database, slot_name=database.name, **settings)

    def single(event: Event) -> None: ...

    task: Any = app.task(name="shop.single", base=namespace["Singleton"], locks=locks, shared=False)
    walex.on_insert("items")(task(single))
    return walex


def test_a_broker_that_is_away_for_too_long_loses_none(shop: Database, locks: Redis) -> None:
    """After ``reconnect_timeout`` the error ends the transaction in its middle: the rest of it is not done."""
    with Valkey() as broker:
        app = make_app(broker.url())
        walex = make_locking(app, shop, locks, publish_timeout=2, reconnect_timeout=5)
        with running(walex) as producer:
            broker.kill()
            shop.execute("INSERT INTO items SELECT generate_series(1, %s)", [ROWS])
            wait_until(lambda: producer.activity.now.doing is Doing.RETRYING, 60)
            broker.start()
            found = set[int]()

            def all_there() -> bool:
                found.update(key(task.event) for task in drain(broker.url(), "celery"))
                return len(found) == ROWS

            wait_until(all_there, 30, "each row has its task")
        app.close()


def test_a_broker_that_refuses_writes_and_a_stop_lose_none(
    shop: Database, locks: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is raised inside of apply_async, which releases its lock. What is lost by a crash is said at start."""
    with Valkey(settings={"maxmemory-policy": "noeviction"}) as broker:
        app = make_app(broker.url())
        walex = make_locking(app, shop, locks, publish_timeout=2)

        def refused_until_stopped() -> None:
            with running(walex):
                broker.client().config_set("maxmemory", "1")
                shop.execute("INSERT INTO items SELECT generate_series(1, %s)", [ROWS])
                wait_until(lambda: "wait for the broker" in caplog.text, 20)

        with pytest.raises(PublishRefused):
            refused_until_stopped()
        broker.client().config_set("maxmemory", "0")

        found = set[int]()

        def all_there() -> bool:
            found.update(key(task.event) for task in drain(broker.url(), "celery"))
            return len(found) == ROWS

        with running(walex):
            wait_until(all_there, 30, "each row has its task")
        app.close()

    assert [record.levelno for record in caplog.records if "takes a lock" in record.getMessage()] == [
        logging.WARNING,
        logging.WARNING,  # of each of the two producers
    ]
