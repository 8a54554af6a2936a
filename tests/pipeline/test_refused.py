"""Promise 1: what the broker refuses or can't route is never acknowledged, is an error with its fix, and recovers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Exchange, Queue

from tests.support import Database, wait_until
from tests.support.producers import make_app, running
from tests.support.queues import Queued, drain
from tests.support.shop import make_enqueuing
from tests.support.slots import confirmed, written
from walex_celery import ConfigurationError, Producer
from walex_celery.testing.servers import Valkey


@pytest.fixture(scope="module")
def own_valkey() -> Iterator[Valkey]:
    """A server whose settings the tests change, and set back."""
    with Valkey() as server:
        yield server


@contextmanager
def channel_of(url: str) -> Iterator[Any]:
    with Connection(url) as connection, connection.channel() as channel:
        yield channel


def keys(queued: list[Queued]) -> list[int]:
    """The rows' keys, each task once: what is sent again has its first id."""
    once = {task.id: task.event.key["id"] for task in queued if task.event.key}
    return list(once.values())


def check(
    shop: Database,
    app: Celery,
    caplog: pytest.LogCaptureFixture,
    *,
    spoil: Callable[[], object],
    said: str,
    fix: Callable[[], object],
) -> Producer:
    """Row 1 goes well; rows 2 to 4 are refused until it is fixed, and then come without a restart."""
    with caplog.at_level(logging.WARNING, "walex_celery"), running(make_enqueuing(app, shop)) as producer:
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: confirmed(shop) >= written(shop))
        spoil()
        before = confirmed(shop)
        for number in (2, 3, 4):
            shop.execute("INSERT INTO items VALUES (%s)", (number,))
        end = written(shop)
        wait_until(lambda: said in caplog.text and "trying again" in caplog.text, 20, caplog.text)
        assert confirmed(shop) == before
        assert "processing waits" in caplog.text
        fix()
        wait_until(lambda: confirmed(shop) >= end, 30)
    return producer


def test_a_queue_that_was_deleted_is_declared_again(shop: Database, amqp_url: str) -> None:
    app = make_app(amqp_url)
    with running(make_enqueuing(app, shop)):
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: confirmed(shop) >= written(shop))
        found = drain(amqp_url, "celery")
        with channel_of(amqp_url) as channel:
            channel.queue_delete("celery")
        shop.execute("INSERT INTO items VALUES (2), (3), (4)")
        wait_until(lambda: confirmed(shop) >= written(shop), 30)
    assert keys(found + drain(amqp_url, "celery")) == [1, 2, 3, 4]


def test_a_binding_that_was_deleted_with_its_exchange_is_declared_again(
    shop: Database, amqp_url: str
) -> None:
    app = make_app(amqp_url)
    app.conf.task_queues = [Queue("celery", Exchange("shop", type="topic"), "items.#")]
    app.conf.task_routes = {"index": {"queue": "celery", "routing_key": "items.new"}}
    with running(make_enqueuing(app, shop)):
        for number, method in enumerate(("exchange_delete", "queue_delete")):
            with channel_of(amqp_url) as channel:
                getattr(channel, method)({"exchange_delete": "shop", "queue_delete": "celery"}[method])
            shop.execute("INSERT INTO items VALUES (%s)", (number,))
            wait_until(lambda: confirmed(shop) >= written(shop), 30)
            assert keys(drain(amqp_url, "celery")) == [number]


def test_bindings_that_valkey_lost_are_declared_again(shop: Database, own_valkey: Valkey) -> None:
    app = make_app(own_valkey.url())
    app.conf.task_queues = [Queue("celery", Exchange("shop", type="topic"), "items.#")]
    app.conf.task_routes = {"index": {"queue": "celery", "routing_key": "items.new"}}
    with own_valkey.client() as client, running(make_enqueuing(app, shop)):
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: confirmed(shop) >= written(shop))
        client.flushall()
        shop.execute("INSERT INTO items VALUES (2), (3)")
        wait_until(lambda: confirmed(shop) >= written(shop), 30)
    assert keys(drain(own_valkey.url(), "celery")) == [2, 3]


def test_a_full_queue_is_filled_as_fast_as_it_is_emptied(shop: Database, amqp_url: str) -> None:
    """``reconnect_timeout`` is for a broker that takes nothing at all."""
    app = make_app(amqp_url)
    arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
    app.conf.task_queues = [Queue("celery", Exchange("celery"), "celery", queue_arguments=arguments)]
    found: list[Queued] = []
    with running(make_enqueuing(app, shop, reconnect_timeout=1)):
        shop.execute("INSERT INTO items SELECT generate_series(1, 40)")
        end = written(shop)

        def emptied() -> bool:
            found.extend(drain(amqp_url, "celery"))
            return confirmed(shop) >= end

        wait_until(emptied, 60)
    # One that found room after others were refused comes again, in its place.
    latest = keys((found + drain(amqp_url, "celery"))[::-1])[::-1]
    assert latest == list(range(1, 41))


def test_a_queue_that_celery_may_not_create(shop: Database, amqp_url: str) -> None:
    """Told before anything is touched."""
    app = make_app(amqp_url)
    app.conf.update(
        task_queues=[Queue("known")],
        task_create_missing_queues=False,
        task_routes={"index": {"queue": "typo"}},
    )
    producer = Producer(make_enqueuing(app, shop))
    with pytest.raises(ConfigurationError, match="typo"):
        producer.run()
    assert not shop.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = 'shop_walex'")


def test_a_full_queue_that_refuses(shop: Database, amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(amqp_url)
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    app.conf.task_queues = [Queue("celery", Exchange("celery"), "celery", queue_arguments=arguments)]
    found: list[Queued] = []

    def consume() -> None:
        def all_came() -> bool:
            found.extend(drain(amqp_url, "celery"))
            return keys(found) == [1, 2, 3, 4]

        wait_until(all_came, 30)

    # Row 1 fills it.
    check(shop, app, caplog, spoil=lambda: None, said="the queue is full", fix=consume)


def test_valkey_without_memory(shop: Database, own_valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    with own_valkey.client() as client:
        client.flushall()
        check(
            shop,
            make_app(own_valkey.url()),
            caplog,
            spoil=lambda: client.config_set("maxmemory", "1"),
            said="raise its maxmemory",
            fix=lambda: client.config_set("maxmemory", "0"),
        )
    assert keys(drain(own_valkey.url(), "celery")) == [1, 2, 3, 4]


def test_valkey_that_became_a_replica(
    shop: Database, own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    with own_valkey.client() as client:
        client.flushall()
        check(
            shop,
            make_app(own_valkey.url()),
            caplog,
            spoil=lambda: client.execute_command("REPLICAOF", "127.0.0.1", "1"),
            said="point broker_url at the primary",
            fix=lambda: client.execute_command("REPLICAOF", "NO", "ONE"),
        )
    assert keys(drain(own_valkey.url(), "celery")) == [1, 2, 3, 4]
