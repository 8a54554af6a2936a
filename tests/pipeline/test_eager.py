"""Tasks that run in the producer (``task_always_eager``), as tests have it."""

from __future__ import annotations

import pytest

from tests.support import Database, wait_until
from tests.support.producers import in_thread, make_app, running
from tests.support.slots import confirmed
from walex_celery import ConfigurationError, Event, Producer, WalEx


def walex_with_task(database: Database, redis_url: str, ran: list[int], *, propagates: bool) -> WalEx:
    """An application whose task fails on the row 1 the first time."""
    database.execute("CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY)")
    app = make_app(redis_url)
    app.conf.update(task_always_eager=True, task_eager_propagates=propagates)

    @app.task(name="fragile")
    def fragile(event: Event) -> None:
        ran.append(event.new_record["id"])
        if ran == [1]:
            raise ZeroDivisionError("the first time")

    walex = WalEx(
        app, name="shop", url=database.url, publication="events", subscriptions=["t"], durable_slot=True
    )
    walex.on_insert("t")(fragile)
    return walex


def insert_until_it_ends(database: Database, producer: Producer) -> None:
    """Raises what ends *producer*, which has acknowledged nothing of the insert."""
    with in_thread(producer) as failures:
        wait_until(producer.streaming.is_set)
        before = confirmed(database)
        database.execute("INSERT INTO t VALUES (1)")
        wait_until(lambda: failures)
        assert confirmed(database) == before


def test_an_error_that_propagates_ends_the_producer_with_the_reason(
    database: Database, redis_url: str
) -> None:
    database.execute("CREATE PUBLICATION events FOR ALL TABLES")
    ran: list[int] = []
    walex = walex_with_task(database, redis_url, ran, propagates=True)
    producer = Producer(walex)
    with pytest.raises(ConfigurationError) as caught:
        insert_until_it_ends(database, producer)
    assert "task fragile failed in the producer" in str(caught.value)
    assert "ZeroDivisionError: the first time" in str(caught.value)
    assert "fix: app.conf.task_always_eager = False" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)

    with running(walex):
        wait_until(lambda: ran == [1, 1], message="it comes again")


def test_without_it_the_stream_goes_on_as_with_workers(database: Database, redis_url: str) -> None:
    database.execute("CREATE PUBLICATION events FOR ALL TABLES")
    ran: list[int] = []
    with running(walex_with_task(database, redis_url, ran, propagates=False)):
        database.execute("INSERT INTO t VALUES (1)")
        database.execute("INSERT INTO t VALUES (2)")
        wait_until(lambda: ran == [1, 2])
