"""RabbitMQ refuses or can't: never taken as done, never sent twice without need (promise 1)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from kombu import Connection, Exchange, Queue

from tests.broker.support import (
    ARGSREPR,
    VALUE,
    Proxy,
    make_app,
    new_id,
    publishing,
    send,
    take_all,
    task_ids,
)
from tests.support import wait_until
from walex_celery.broker import Publisher, TaskTarget
from walex_celery.broker.amqp.writer import WINDOW
from walex_celery.errors import BrokerUnavailable, PublishRefused
from walex_celery.testing.servers import RabbitMQ

ROUTES = {"shop.a": {"queue": "a"}, "shop.b": {"queue": "b"}}


def add(publisher: Publisher, function: TaskTarget, count: int) -> list[str]:
    ids = [new_id() for _ in range(count)]
    for task_id in ids:
        publisher.add(function, task_id, VALUE, ARGSREPR)
    return ids


def finish(publisher: Publisher) -> None:
    publisher.flush()
    publisher.confirm()


def on_channel(url: str, method: str, *args: Any, **options: Any) -> None:
    with Connection(url) as connection:
        getattr(connection.default_channel, method)(*args, **options)


def test_unroutable_task_is_refused_and_its_queue_declared_again(amqp_url: str) -> None:
    with publishing(make_app(amqp_url, task_routes=ROUTES)) as publisher:
        a, b = publisher.prepare("shop.a"), publisher.prepare("shop.b")
        publisher.declare()
        on_channel(amqp_url, "queue_delete", "b")
        to_a, to_b = add(publisher, a, 3), add(publisher, b, 3)
        publisher.flush()
        with pytest.raises(PublishRefused, match=r"can't route task 'shop.b' to queue 'b'.*NO_ROUTE"):
            publisher.confirm()
        assert publisher.unconfirmed_count == 3
        finish(publisher)
        assert task_ids(take_all(amqp_url, "a")) == to_a  # not sent again
        assert task_ids(take_all(amqp_url, "b")) == to_b


def test_an_unknown_type_of_exchange_is_refused_in_rabbitmqs_words(amqp_url: str) -> None:
    """The plugin is not there: the broker closes the connection."""
    exchange = Exchange("shop", type="x-delayed-message", arguments={"x-delayed-type": "direct"})
    queue = Queue("b", exchange, "b")
    with publishing(make_app(amqp_url, task_routes=ROUTES, task_queues=[queue])) as publisher:
        b = publisher.prepare("shop.b")
        with pytest.raises(PublishRefused, match=r"'b'.*unknown exchange type 'x-delayed-message'.*plugin"):
            publisher.declare()
        add(publisher, b, 1)
        with pytest.raises(PublishRefused, match="unknown exchange type 'x-delayed-message'"):
            publisher.flush()


def test_full_queue_is_refused_and_keeps_its_order(amqp_url: str) -> None:
    arguments = {"x-max-length": 2, "x-overflow": "reject-publish"}
    queue = Queue("b", Exchange("b"), "b", queue_arguments=arguments)
    with publishing(make_app(amqp_url, task_routes=ROUTES, task_queues=[queue])) as publisher:
        a, b = publisher.prepare("shop.a"), publisher.prepare("shop.b")
        publisher.declare()
        to_a, to_b = add(publisher, a, 2), add(publisher, b, 4)
        publisher.flush()
        with pytest.raises(PublishRefused, match=r"'shop.b' for queue 'b' \(nack\): the queue is full"):
            publisher.confirm()
        taken = task_ids(take_all(amqp_url, "b"))
        assert taken == to_b[: len(taken)]
        while publisher.unconfirmed_count:
            with contextlib.suppress(PublishRefused):
                finish(publisher)
            taken += task_ids(take_all(amqp_url, "b"))
        assert list(dict.fromkeys(taken)) == to_b
        assert task_ids(take_all(amqp_url, "a")) == to_a


def test_missing_exchange_is_refused_by_name(amqp_url: str) -> None:
    queue = Queue("b", Exchange("shop", type="topic"), "b.#")
    with publishing(make_app(amqp_url, task_routes=ROUTES, task_queues=[queue])) as publisher:
        b = publisher.prepare("shop.b")
        publisher.declare()
        on_channel(amqp_url, "exchange_delete", "shop")
        ids = add(publisher, b, 2)
        with pytest.raises(PublishRefused, match=r"task 'shop.b' for exchange 'shop'.*no exchange 'shop'"):
            finish(publisher)
        finish(publisher)  # declared again
        assert task_ids(take_all(amqp_url, "b")) == ids


def test_queue_declared_otherwise_is_refused_at_start(amqp_url: str) -> None:
    on_channel(amqp_url, "queue_declare", "celery", durable=False, auto_delete=False)
    with publishing(make_app(amqp_url)) as publisher:
        publisher.prepare("shop.send")
        with pytest.raises(PublishRefused, match=r"inequivalent arg 'durable' for queue 'celery'"):
            publisher.declare()


def test_window_is_bounded_and_order_kept_beyond_it(amqp_url: str) -> None:
    with publishing(make_app(amqp_url, task_routes=ROUTES)) as publisher:
        functions = publisher.prepare("shop.a"), publisher.prepare("shop.b")
        publisher.declare()
        ids: list[list[str]] = [[], []]
        for number in range(WINDOW + 2_000):
            ids[number % 2] += add(publisher, functions[number % 2], 1)
        finish(publisher)
        assert task_ids(take_all(amqp_url, "a")) == ids[0]
        assert task_ids(take_all(amqp_url, "b")) == ids[1]


@pytest.fixture(scope="module")
def own_rabbitmq() -> Iterator[RabbitMQ]:
    """A broker whose settings tests may change."""
    with RabbitMQ() as server:
        yield server


def test_too_large_message_is_refused_by_name(own_rabbitmq: RabbitMQ) -> None:
    url = own_rabbitmq.create_vhost()
    own_rabbitmq.ctl("eval", "application:set_env(rabbit, max_message_size, 2000).")
    try:
        with publishing(make_app(url, task_routes=ROUTES)) as publisher:
            a, b = publisher.prepare("shop.a"), publisher.prepare("shop.b")
            publisher.declare()
            ids = add(publisher, a, 2)
            publisher.add(b, new_id(), b'"' + b"x" * 3000 + b'"', ARGSREPR)
            with pytest.raises(PublishRefused, match=r"task 'shop.b' for queue 'b'.*larger than.* 2000"):
                finish(publisher)
            own_rabbitmq.ctl("eval", "application:set_env(rabbit, max_message_size, 134217728).")
            finish(publisher)
            assert list(dict.fromkeys(task_ids(take_all(url, "a")))) == ids
            assert len(take_all(url, "b")) == 1
    finally:
        own_rabbitmq.ctl("eval", "application:set_env(rabbit, max_message_size, 134217728).")


def test_memory_alarm_is_told_and_waited_out(own_rabbitmq: RabbitMQ) -> None:
    url = own_rabbitmq.create_vhost()
    with publishing(make_app(url), timeout_seconds=1) as publisher:
        function = publisher.prepare("shop.send")
        ids = [new_id()]
        send(publisher, function, *ids)
        own_rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1000")
        try:
            ids += add(publisher, function, 3)
            publisher.flush()
            for _ in range(2):
                with pytest.raises(BrokerUnavailable, match=r"connection.blocked: a memory or disk alarm"):
                    publisher.confirm()
            ids += add(publisher, function, 3)
            with pytest.raises(BrokerUnavailable, match=r"connection.blocked"):
                publisher.flush()
        finally:
            own_rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
        publisher.flush()
        publisher.confirm()
        assert task_ids(take_all(url, "celery")) == ids  # nothing was sent twice


def test_vhost_that_is_missing_is_told(own_rabbitmq: RabbitMQ) -> None:
    with publishing(make_app(own_rabbitmq.url("nowhere"))) as publisher:
        publisher.prepare("shop.send")
        with pytest.raises((BrokerUnavailable, PublishRefused), match="nowhere"):
            publisher.declare()


def test_wrong_password_is_told_without_it(own_rabbitmq: RabbitMQ) -> None:
    parts = urlsplit(own_rabbitmq.create_vhost())
    url = f"amqp://guest:wrong-s3cret@127.0.0.1:{parts.port}/{unquote(parts.path[1:])}"
    with publishing(make_app(url)) as publisher:
        publisher.prepare("shop.send")
        with pytest.raises(PublishRefused, match="refused the login") as raised:
            publisher.declare()
        assert "s3cret" not in str(raised.value)


def test_the_last_message_is_waited_for_too(amqp_url: str) -> None:
    port = urlsplit(amqp_url).port or 0
    with Proxy(port) as proxy:
        app = make_app(amqp_url.replace(f":{port}", f":{proxy.port}"))
        with publishing(app, timeout_seconds=1) as publisher:
            function = publisher.prepare("shop.send")
            publisher.declare()
            proxy.stall()
            add(publisher, function, 1)
            publisher.flush()
            with pytest.raises(BrokerUnavailable, match="did not confirm in time"):
                publisher.confirm()
            assert publisher.unconfirmed_count == 1
            proxy.flow()


def test_what_followed_a_returned_message_is_sent_again_in_its_place(amqp_url: str) -> None:
    """Its queue is there again in between: the last one of each is in order (promise 2)."""
    with publishing(make_app(amqp_url, task_routes=ROUTES)) as publisher:
        b = publisher.prepare("shop.b")
        publisher.declare()
        on_channel(amqp_url, "queue_delete", "b")
        ids = add(publisher, b, 1)
        publisher.flush()
        confirms = publisher._writer._confirms  # type: ignore[attr-defined]
        wait_until(lambda: confirms.returned and not confirms.unanswered)  # its heartbeats look once a second
        on_channel(amqp_url, "queue_declare", "b", durable=True, auto_delete=False)
        ids += add(publisher, b, 1)
        publisher.flush()
        with pytest.raises(PublishRefused, match="NO_ROUTE"):
            publisher.confirm()
        finish(publisher)
    latest = dict.fromkeys(reversed(task_ids(take_all(amqp_url, "b"))))
    assert [*reversed(latest)] == ids


def test_what_a_lost_connection_had_confirmed_is_not_sent_again(amqp_url: str) -> None:
    port = urlsplit(amqp_url).port or 0
    with Proxy(port) as proxy:
        app = make_app(amqp_url.replace(f":{port}", f":{proxy.port}"))
        with publishing(app) as publisher:
            function = publisher.prepare("shop.send")
            publisher.declare()
            ids = add(publisher, function, 5)
            publisher.flush()
            confirms = publisher._writer._confirms  # type: ignore[attr-defined]
            wait_until(lambda: confirms.answered == 5)  # its heartbeats look once a second
            proxy.cut()
            ids += add(publisher, function, 2)

            def finished() -> bool:
                with contextlib.suppress(BrokerUnavailable):
                    finish(publisher)
                    return True
                return False

            wait_until(finished)
            assert publisher.unconfirmed_count == 0
    assert task_ids(take_all(amqp_url, "celery")) == ids
