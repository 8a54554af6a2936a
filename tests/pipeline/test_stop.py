"""A stop while the broker is away is told, not taken for an orderly one; what was in hand comes again."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support import Database, wait_until
from tests.support.producers import make_app, running, unconfirmed
from tests.support.queues import drain
from tests.support.shop import SCHEMA, make_enqueuing
from tests.support.slots import written
from walex_celery import Spool
from walex_celery.errors import BrokerUnavailable
from walex_celery.testing.servers import Valkey


@pytest.mark.parametrize("spooled", [False, True], ids=["stream", "spool"])
def test_stopping_while_the_broker_is_away(
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
