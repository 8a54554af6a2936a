"""Valkey refuses or can't: never taken as done; and tasks land where a worker looks (promise 1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from kombu import Connection, Exchange, Queue
from redis import Redis

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
from walex_celery.broker.redis.errors import fix_for
from walex_celery.errors import BrokerUnavailable, PublishRefused
from walex_celery.testing.servers import Valkey

ROUTES = {"shop.a": {"queue": "a"}, "shop.b": {"queue": "b"}}


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server whose settings the test may change."""
    with Valkey() as server:
        yield server


def add(publisher: Publisher, function: TaskTarget, count: int) -> list[str]:
    ids = [new_id() for _ in range(count)]
    for task_id in ids:
        publisher.add(function, task_id, VALUE, ARGSREPR)
    return ids


def finish(publisher: Publisher, position: int | None = None) -> None:
    publisher.flush(position)
    publisher.confirm()


def test_out_of_memory_is_refused_until_there_is_some(own_valkey: Valkey) -> None:
    url = own_valkey.url(1)
    with own_valkey.client() as client, publishing(make_app(url)) as publisher:
        function = publisher.prepare("shop.send")
        publisher.declare()
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        ids = add(publisher, function, 3)
        for _ in range(2):
            publisher.flush()
            with pytest.raises(PublishRefused, match=r"OOM.*maxmemory.*let the workers catch up"):
                publisher.confirm()
            assert publisher.unconfirmed_count == 3
        client.config_set("maxmemory", "0")
        finish(publisher)
        assert task_ids(take_all(url)) == ids


def test_read_only_replica_is_refused(own_valkey: Valkey) -> None:
    url = own_valkey.url(1)
    with own_valkey.client() as client, publishing(make_app(url)) as publisher:
        function = publisher.prepare("shop.send")
        publisher.declare()
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        ids = add(publisher, function, 3)
        publisher.flush()
        with pytest.raises(PublishRefused, match=r"READONLY.*point broker_url at the primary"):
            publisher.confirm()
        client.execute_command("REPLICAOF", "NO", "ONE")
        finish(publisher)
        assert task_ids(take_all(url)) == ids


def test_wrong_password_is_told_without_it() -> None:
    with Valkey(password="right") as server:
        url = f"redis://:wrong-s3cret@127.0.0.1:{server.port}/0"
        with publishing(make_app(url)) as publisher:
            publisher.prepare("shop.send")
            with pytest.raises(PublishRefused, match="refused the login") as raised:
                publisher.declare()
            assert "s3cret" not in str(raised.value)


def test_user_without_rights_is_told(own_valkey: Valkey) -> None:
    with own_valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", "on", ">pass-word", "~*", "+@all", "-lpush")
    with publishing(make_app(f"redis://shop:pass-word@127.0.0.1:{own_valkey.port}/0")) as publisher:
        function = publisher.prepare("shop.send")
        add(publisher, function, 1)
        publisher.flush()
        with pytest.raises(PublishRefused, match=r"NOPERM.*ACL SETUSER"):
            publisher.confirm()


@pytest.mark.parametrize("exactly_once", [False, True])
def test_the_commands_named_are_enough(own_valkey: Valkey, exactly_once: bool) -> None:
    granted = re.findall(r"\+[@a-z]+", fix_for("NOPERM"))
    with own_valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", "on", ">pass-word", "~*", "&*", *granted)
    queue = Queue("orders", Exchange("shop", type="topic"), "orders.#", expires=600)
    routes = {"shop.new": {"queue": "orders", "routing_key": "orders.new", "priority": 3}}
    app = make_app(
        f"redis://shop:pass-word@127.0.0.1:{own_valkey.port}/0",
        task_queues=[queue],
        task_routes=routes,
        task_send_sent_event=True,
    )
    with publishing(app, exactly_once=exactly_once) as publisher:
        function = publisher.prepare("shop.new")
        publisher.declare()
        if exactly_once:
            publisher.take_over("walex:1:shop")
        add(publisher, function, 2)
        finish(publisher, 1)
        if exactly_once:
            publisher.reset_position()
    assert len(take_all(own_valkey.url(0))) == 2


def test_loading_server_is_waited_for(own_valkey: Valkey) -> None:
    url = own_valkey.url(1)
    with own_valkey.client() as client, publishing(make_app(url), timeout_seconds=0.5) as publisher:
        function = publisher.prepare("shop.send")
        publisher.declare()
        ids = add(publisher, function, 2)
        client.execute_command("CLIENT", "PAUSE", "1500", "ALL")
        publisher.flush()
        with pytest.raises(BrokerUnavailable, match="did not confirm"):
            publisher.confirm()
        client.execute_command("CLIENT", "UNPAUSE")
        finish(publisher)
        assert list(dict.fromkeys(task_ids(take_all(url)))) == ids


def test_connection_closed_while_idle_is_opened_again(redis_url: str, valkey: Valkey) -> None:
    with valkey.client() as client, publishing(make_app(redis_url)) as publisher:
        function = publisher.prepare("shop.send")
        publisher.declare()
        client.client_kill_filter(_type="normal", skipme=True)
        task_id = new_id()
        send(publisher, function, task_id)
        assert task_ids(take_all(redis_url)) == [task_id]


def test_one_refused_queue_does_not_send_the_others_twice(redis_url: str, valkey: Valkey) -> None:
    number = int(redis_url.rsplit("/", 1)[1])
    with valkey.client(number) as client, publishing(make_app(redis_url, task_routes=ROUTES)) as publisher:
        a, b = publisher.prepare("shop.a"), publisher.prepare("shop.b")
        publisher.declare()
        client.set("b", "not a list")
        to_a, to_b = add(publisher, a, 2), add(publisher, b, 2)
        publisher.flush()
        with pytest.raises(PublishRefused, match=r"shop.b for queue 'b'.*WRONGTYPE"):
            publisher.confirm()
        assert publisher.unconfirmed_count == 2
        client.delete("b")
        finish(publisher)
        assert task_ids(take_all(redis_url)) == to_a + to_b


def test_exchange_without_a_queue_is_refused(redis_url: str, valkey: Valkey) -> None:
    queue = Queue("orders", Exchange("shop", type="topic"), routing_key="orders.#")
    conf = {
        "task_queues": [queue],
        "task_routes": {
            "shop.new": {"queue": "orders", "routing_key": "orders.new"},
            "shop.other": {"queue": "orders", "routing_key": "invoices.new"},
        },
    }
    with publishing(make_app(redis_url, **conf)) as publisher:
        new, other = publisher.prepare("shop.new"), publisher.prepare("shop.other")
        ids = add(publisher, new, 2)
        finish(publisher)
        assert [(m["queue"], m["headers"]["id"]) for m in take_all(redis_url)] == [("orders", i) for i in ids]
        ids = add(publisher, other, 1)
        with pytest.raises(PublishRefused, match=r"No queue is bound to exchange 'shop' .*'invoices.new'"):
            publisher.flush()
        with Connection(redis_url) as connection:
            Queue("invoices", Exchange("shop", type="topic"), "invoices.#")(
                connection.default_channel
            ).declare()
        finish(publisher)
        assert [(m["queue"], m["headers"]["id"]) for m in take_all(redis_url)] == [("invoices", ids[0])]


def test_what_followed_into_a_refused_queue_is_sent_again_in_its_place(
    redis_url: str, valkey: Valkey
) -> None:
    """The queue takes tasks again in between: the last one of each is in order (promise 2)."""
    number = int(redis_url.rsplit("/", 1)[1])
    with valkey.client(number) as client, publishing(make_app(redis_url, task_routes=ROUTES)) as publisher:
        b = publisher.prepare("shop.b")
        publisher.declare()
        client.set("b", "not a list")
        ids = add(publisher, b, 1)
        refused = rejections(client)
        publisher.flush()
        wait_until(lambda: rejections(client) > refused)
        client.delete("b")
        ids += add(publisher, b, 1)
        publisher.flush()
        wait_until(lambda: client.llen("b") == 1)

        with pytest.raises(PublishRefused, match="WRONGTYPE"):
            publisher.confirm()
        finish(publisher)

        latest = dict.fromkeys(reversed(task_ids(take_all(redis_url))))
        assert [*reversed(latest)] == ids


def rejections(client: Redis) -> int:
    """How many pushes the server has answered with an error."""
    return int(client.info("commandstats").get("cmdstat_lpush", {}).get("failed_calls", 0))


def test_replies_of_a_connection_that_was_lost_are_not_awaited_on_the_next(
    redis_url: str, valkey: Valkey
) -> None:
    """Each batch is confirmed by its own."""
    number = int(redis_url.rsplit("/", 1)[1])
    port = urlsplit(redis_url).port or 0
    with Proxy(port) as proxy, valkey.client(number) as client:
        app = make_app(redis_url.replace(f":{port}", f":{proxy.port}"))
        with publishing(app) as publisher:
            function = publisher.prepare("shop.send")
            publisher.declare()
            proxy.stall()
            add(publisher, function, 1)
            publisher.flush()
            proxy.cut()
            proxy.flow()
            with pytest.raises(BrokerUnavailable):
                publisher.confirm()
            finish(publisher)
            assert publisher.unconfirmed_count == 0

            client.delete("celery")
            client.set("celery", "not a list")
            add(publisher, function, 1)
            publisher.flush()
            with pytest.raises(PublishRefused, match="WRONGTYPE"):
                publisher.confirm()
            assert publisher.unconfirmed_count == 1
