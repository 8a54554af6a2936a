"""Each way in which a broker loses what it confirmed, made for real and seen; and none on a good broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue

from tests.broker.support import Proxy, make_app, publishing, send
from walex_celery.broker.durability import Weakness, examine
from walex_celery.errors import BrokerUnavailable
from walex_celery.testing.servers import Valkey


@pytest.fixture(scope="module")
def own_valkey() -> Iterator[Valkey]:
    """A server whose settings the tests change, and set back."""
    with Valkey() as server, server.client() as client:
        client.acl_setuser(
            "app", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-@admin", "-info"]
        )
        yield server


def look(app: Celery, task: str = "shop.send") -> list[Weakness]:
    """What is seen once the task's queue has been declared, as the producer does."""
    with publishing(app) as publisher:
        function = publisher.prepare(task)
        publisher.declare()
        return examine(app, [function])


def ids(app: Celery, task: str = "shop.send") -> list[str]:
    return [weakness.id for weakness in look(app, task)]


def test_a_good_broker_has_no_weakness(broker_url: str) -> None:
    assert look(make_app(broker_url)) == []


@pytest.mark.parametrize(
    ("settings", "expected", "said"),
    [
        ({"appendonly": "no"}, "redis-no-persistence", "loses all tasks when it ends"),
        ({"appendonly": "no", "save": "60 1"}, "redis-no-persistence", "since its last snapshot"),
        ({"appendfsync": "everysec"}, "redis-appendfsync", "may lose a second"),
        ({"appendfsync": "no"}, "redis-appendfsync", "may lose half a minute"),
        ({"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}, "redis-evicts", "allkeys-lru"),
    ],
)
def test_settings_of_valkey(own_valkey: Valkey, settings: dict[str, str], expected: str, said: str) -> None:
    with own_valkey.client() as client:
        before = {name: client.config_get(name)[name] for name in settings}
        for name, value in settings.items():
            client.config_set(name, value)
        try:
            (weakness,) = look(make_app(own_valkey.url()))
        finally:
            for name, held in before.items():
                client.config_set(name, held)
    assert (weakness.id, weakness.severity) == (expected, "warning")
    assert said in weakness.sentence
    assert weakness.fix.startswith("CONFIG SET")


@pytest.mark.parametrize(
    ("memory", "policy"), [("0", "allkeys-lru"), ("1gb", "volatile-lru"), ("1gb", "noeviction")]
)
def test_what_evicts_no_queue_is_no_weakness(own_valkey: Valkey, memory: str, policy: str) -> None:
    with own_valkey.client() as client:
        client.config_set("maxmemory", memory)
        client.config_set("maxmemory-policy", policy)
        try:
            assert look(make_app(own_valkey.url())) == []
        finally:
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")


def test_expiring_queues_are_evicted_by_volatile_policies_too(own_valkey: Valkey) -> None:
    app = make_app(own_valkey.url(), task_queues=[Queue("brief", expires=60)], task_default_queue="brief")
    assert ids(app) == ["queue-expires"]
    with own_valkey.client() as client:
        client.config_set("maxmemory", "1gb")
        client.config_set("maxmemory-policy", "volatile-lru")
        try:
            assert ids(app) == ["redis-evicts", "queue-expires"]
        finally:
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")


def test_a_replica(own_valkey: Valkey) -> None:
    app = make_app(own_valkey.url())
    with own_valkey.client() as client, publishing(app) as publisher:
        function = publisher.prepare("shop.send")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            found = examine(app, [function])
        finally:
            client.execute_command("REPLICAOF", "NO", "ONE")
    assert [weakness.id for weakness in found] == ["redis-replica"]


def test_what_a_managed_service_does_not_show_is_said(own_valkey: Valkey) -> None:
    url = own_valkey.url().replace("redis://", "redis://app:secret@")
    (weakness,) = look(make_app(url))
    assert (weakness.id, weakness.severity) == ("redis-not-seen", "info")
    assert "INFO and CONFIG" in weakness.sentence
    assert "secret" not in weakness.sentence


@pytest.mark.parametrize(
    ("limit", "timeout", "weak"), [(7200, None, True), (7200, 7300, False), (600, 500, True)]
)
def test_time_limits_beyond_the_visibility_timeout(
    redis_url: str, limit: int, timeout: int | None, weak: bool
) -> None:
    app = make_app(redis_url, broker_transport_options={"visibility_timeout": timeout} if timeout else {})

    @app.task(name="shop.long", time_limit=limit)
    def long(event: object) -> None: ...

    assert ids(app, "shop.long") == (["redis-visibility-timeout"] if weak else [])


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"durable": False}, ["rabbitmq-not-durable"]),
        ({"auto_delete": True}, ["rabbitmq-auto-delete"]),
        ({"max_length": 100}, ["rabbitmq-drop-head"]),
        ({"queue_arguments": {"x-max-length-bytes": 100}}, ["rabbitmq-drop-head"]),
        ({"queue_arguments": {"x-max-length": 100, "x-overflow": "reject-publish"}}, []),
        ({"queue_arguments": {"x-max-length": 100, "x-dead-letter-exchange": "dead"}}, []),
        ({"message_ttl": 60}, ["rabbitmq-message-ttl"]),
        ({"queue_arguments": {"x-message-ttl": 60, "x-dead-letter-exchange": "dead"}}, []),
        ({"expires": 60}, ["queue-expires"]),
        ({"queue_arguments": {"x-queue-type": "quorum"}}, []),
        ({"exchange": Exchange("shop", delivery_mode=1)}, ["rabbitmq-transient"]),
        (
            {"exchange": Exchange("shop", delivery_mode=1), "queue_arguments": {"x-queue-type": "quorum"}},
            [],
        ),
    ],
)
def test_queues_of_rabbitmq(amqp_url: str, properties: dict[str, Any], expected: list[str]) -> None:
    queue = Queue("q", **{"exchange": Exchange("shop"), "routing_key": "q", **properties})
    app = make_app(amqp_url, task_queues=[queue], task_routes={"shop.send": {"queue": "q"}})
    assert ids(app) == expected


def test_transient_by_default_and_exclusive(amqp_url: str) -> None:
    app = make_app(amqp_url, task_default_delivery_mode="transient")
    assert ids(app) == ["rabbitmq-transient"]
    app = make_app(
        amqp_url,
        task_queues=[Queue("mine", Exchange("mine"), "mine", exclusive=True)],
        task_default_queue="mine",
    )
    with publishing(app) as publisher:
        function = publisher.prepare("shop.send")
        publisher.declare()
        send(publisher, function)
        assert "rabbitmq-exclusive" in [weakness.id for weakness in examine(app, [function])]


def test_other_transports_can_t_be_told() -> None:
    (weakness,) = look(make_app("memory://"))
    assert (weakness.id, weakness.severity) == ("broker-unknown", "info")


class CutAtInfo(Proxy):
    """Ends the connection when the client asks for INFO."""

    def passes(self, data: bytes) -> bool:
        return b"\r\nINFO\r\n" not in data


def test_a_broker_that_goes_away_while_it_is_asked_is_unavailable(own_valkey: Valkey) -> None:
    with CutAtInfo(own_valkey.port) as proxy:
        url = own_valkey.url().replace(f":{own_valkey.port}", f":{proxy.port}")
        with pytest.raises(BrokerUnavailable, match="what it keeps"):
            look(make_app(url))
