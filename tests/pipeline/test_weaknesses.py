"""At its start a producer with a durable slot says once what the broker may lose; it never fails because of that."""

from __future__ import annotations

import logging

import pytest

from tests.support import Database, wait_until
from tests.support.producers import make_app, running
from walex_celery import Event, WalEx
from walex_celery.testing.servers import Valkey

SCHEMA = "CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE items"


@pytest.mark.parametrize(
    ("append_only", "durable", "times"), [(False, True, 1), (False, False, 0), (True, True, 0)]
)
def test_the_producer_warns_once_of_a_broker_that_loses(
    database: Database, caplog: pytest.LogCaptureFixture, append_only: bool, durable: bool, times: int
) -> None:
    database.execute(SCHEMA)
    with Valkey(append_only=append_only) as broker, caplog.at_level(logging.WARNING, "walex_celery"):
        app = make_app(broker.url())
        walex = WalEx(
            app,
            name="shop",
            url=database.url,
            publication="events",
            subscriptions=["items"],
            durable_slot=durable,
        )

        @walex.on_insert("items")
        @app.task(name="index")
        def index(event: Event) -> None: ...

        with running(walex) as producer:
            database.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
            wait_until(lambda: producer.statistics.connects == 2, 20)
    assert caplog.text.count("loses all tasks when it ends") == times
