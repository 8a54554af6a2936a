"""A function that this process knows only by its name: what is lost is said when the producer starts (promise 8)."""

from __future__ import annotations

import logging

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import running
from tests.support.queues import drain
from tests.support.shop import make_walex
from walex_celery import Event


def test_a_task_that_is_known_by_its_name_only_is_warned_of_once(
    app: Celery, redis_url: str, shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    walex = make_walex(app, shop, slot_name=shop.name, subscriptions=["items", "parts"])
    for table in ("items", "parts"):
        walex.on_insert(table, functions=["crm.tasks.add"])(print)
    with caplog.at_level(logging.WARNING, "walex_celery"), running(walex) as producer:
        shop.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s",
            [shop.name],
        )
        wait_until(lambda: producer.statistics.connects == 2, 20)
        shop.execute("INSERT INTO items VALUES (1)")
        queued = wait_until(lambda: drain(redis_url, "celery"), 20, "a task")

    assert [task.name for task in queued] == ["crm.tasks.add"]
    (warning,) = [line for line in caplog.messages if "crm.tasks.add" in line]
    assert warning == (
        "Task crm.tasks.add is not known to this process, only its name: its own options (queue, priority, expires, "
        "serializer and others) are lost; it goes to queue 'celery', as task_routes and the defaults say\n"
        "  fix: import its module here too (include=[...]); for a task of another code base, give its queue and "
        "priority in task_routes"
    )


def test_a_known_task_is_not_warned_of(app: Celery, shop: Database, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(name="crm.tasks.add")
    def add(event: Event) -> None: ...

    walex = make_walex(app, shop, slot_name=shop.name)
    walex.on_insert("items", functions=["crm.tasks.add"])(print)

    with caplog.at_level(logging.WARNING, "walex_celery"), running(walex):
        pass

    assert "not known to this process" not in caplog.text
