"""A stop while the broker is down is an error, not an orderly stop; what was in hand comes again."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import make_app, running, unconfirmed
from tests.support.queues import drain
from tests.support.shop import SCHEMA, make_enqueuing, make_walex
from tests.support.slots import written
from walex_celery import Event, Spool
from walex_celery.errors import BrokerUnavailable
from walex_celery.testing.servers import Valkey


@pytest.mark.parametrize("spooled", [False, True], ids=["stream", "spool"])
def test_stopping_while_the_broker_is_down(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, spooled: bool
) -> None:
    database.execute(SCHEMA)
    with Valkey() as broker:
        middleware = Spool(tmp_path / "spool") if spooled else None
        walex = make_enqueuing(make_app(broker.url()), database, message_middleware=middleware)

        def run_into_it() -> None:
            with running(walex) as producer:
                database.execute("INSERT INTO items VALUES (1)")
                wait_until(lambda: producer.statistics.tasks == 1 and not unconfirmed(producer))
                broker.kill()
                database.execute("INSERT INTO items VALUES (2)")
                wait_until(lambda: "processing waits" in caplog.text)

        with caplog.at_level(logging.WARNING, "walex_celery"), pytest.raises(BrokerUnavailable):
            run_into_it()
        broker.start()
        with running(walex) as producer:
            end = written(database)
            wait_until(lambda: producer.confirmed_lsn >= end or producer.statistics.tasks == 1)
        keys = [task.event.key["id"] for task in drain(broker.url(), "celery") if task.event.key]
    assert list(dict.fromkeys(keys)) == [1, 2]


def test_with_a_temporary_slot_it_does_not_come_again(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """And the error says so, and what would keep it."""
    database.execute(SCHEMA)
    with Valkey() as broker:
        walex = make_enqueuing(make_app(broker.url()), database, durable_slot=False)

        def run_into_it() -> None:
            with running(walex):
                broker.kill()
                database.execute("INSERT INTO items VALUES (1)")
                wait_until(lambda: "processing waits" in caplog.text)

        with caplog.at_level(logging.WARNING, "walex_celery"), pytest.raises(BrokerUnavailable) as caught:
            run_into_it()
    assert "are lost, because the slot is temporary" in str(caught.value)
    assert "fix: for their transactions to come again, durable_slot=True" in str(caught.value)


@pytest.mark.parametrize(
    ("durable", "says"),
    [(True, "is not acknowledged, and comes again"), (False, "is lost, because the slot is temporary")],
)
def test_stopping_while_a_handler_is_tried_again(
    database: Database, app: Celery, caplog: pytest.LogCaptureFixture, durable: bool, says: str
) -> None:
    database.execute(SCHEMA)
    walex = make_walex(app, database, durable_slot=durable)

    @walex.on_insert("items", on_error="retry")
    def fragile(events: list[Event]) -> None:
        raise ValueError("as it does")

    with caplog.at_level(logging.INFO, "walex_celery"), running(walex):
        database.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: "trying again in" in caplog.text)
    assert f"; its transaction {says}" in caplog.text
