"""Whatever becomes of the broker, what was added is in it in the end, in order (promises 1, 2, 3 and 9)."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

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
)  # fmt: skip
from tests.support import wait_until
from walex_celery.broker import Publisher, TaskTarget
from walex_celery.errors import BrokerUnavailable, ConfigurationError
from walex_celery.testing.servers import RabbitMQ, Valkey


@pytest.fixture(scope="module")
def mortal_rabbitmq() -> Iterator[RabbitMQ]:
    """A broker that tests may kill."""
    with RabbitMQ() as server:
        yield server


@pytest.fixture(params=["valkey", "rabbitmq"])
def mortal(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A server that the test may kill, of each kind in turn; with a vhost or database of the test's own."""
    if request.param == "rabbitmq":
        server = request.getfixturevalue("mortal_rabbitmq")
        url = server.create_vhost()
        yield server, url
        if not server.running:
            server.start()
    else:
        with Valkey() as valkey:
            yield valkey, valkey.url(1)


def prepared(publisher: Publisher, *names: str) -> list[TaskTarget]:
    functions = [publisher.prepare(name) for name in names or ("shop.send",)]
    publisher.declare()
    return functions


def add(publisher: Publisher, function: TaskTarget, count: int) -> list[str]:
    ids = [new_id() for _ in range(count)]
    for task_id in ids:
        publisher.add(function, task_id, VALUE, ARGSREPR)
    return ids


def first_of_each(ids: list[str]) -> list[str]:
    return list(dict.fromkeys(ids))


def test_messages_of_a_queue_keep_their_order(broker_url: str) -> None:
    conf = {"task_routes": {"shop.a": "a", "shop.b": "b"}}
    with publishing(make_app(broker_url, **conf)) as publisher:
        one, two, three = prepared(publisher, "shop.a", "shop.b", "shop.c")
        ids: dict[str, list[str]] = {"a": [], "b": [], "celery": []}
        for _ in range(3):  # three flushes before one confirm
            for _ in range(700):
                for queue, function in (("a", one), ("b", two), ("celery", three)):
                    ids[queue] += add(publisher, function, 1)
            publisher.flush()
        publisher.confirm()
        assert publisher.unconfirmed_count == 0
    messages = take_all(broker_url, *ids)
    for queue, expected in ids.items():
        assert task_ids([m for m in messages if m["queue"] == queue]) == expected


def test_counts_what_is_not_confirmed(broker_url: str) -> None:
    with publishing(make_app(broker_url)) as publisher:
        [function] = prepared(publisher)
        add(publisher, function, 3)
        size = publisher.unconfirmed_bytes
        assert publisher.unconfirmed_count == 3
        assert 3 * len(VALUE) < size < 3 * len(VALUE) + 9000
        publisher.flush()
        assert (publisher.unconfirmed_count, publisher.unconfirmed_bytes) == (3, size)
        publisher.confirm()
        assert (publisher.unconfirmed_count, publisher.unconfirmed_bytes) == (0, 0)


def test_confirms_one_flush_while_others_are_on_their_way(broker_url: str) -> None:
    with publishing(make_app(broker_url)) as publisher:
        [function] = prepared(publisher)
        ids: list[str] = []
        serials = []
        for _ in range(30):
            ids += add(publisher, function, 20)
            serials.append(publisher.flush())
            if len(serials) > 3:
                publisher.confirm(serials[-3])
                assert publisher.unconfirmed_count == 40
        publisher.confirm()
        assert publisher.unconfirmed_count == 0
        assert task_ids(take_all(broker_url, "celery")) == ids


def test_functions_of_one_event_share_the_rendered_body(broker_url: str) -> None:
    with publishing(make_app(broker_url)) as publisher:
        functions = prepared(publisher, "shop.a", "shop.b")
        value = json.dumps({"text": "x" * 300_000}).encode()  # larger than a frame of RabbitMQ's
        for function in functions:
            publisher.add(function, new_id(), value, ARGSREPR)
        publisher.flush()
        publisher.confirm()
        first, second = take_all(broker_url, "celery")
        assert first["body"] == second["body"]
        assert len(first["body"]) > 300_000


def test_broker_killed_between_flush_and_confirm(mortal: Any) -> None:
    server, url = mortal
    with publishing(make_app(url)) as publisher:
        [function] = prepared(publisher)
        sent = [new_id() for _ in range(5)]
        send(publisher, function, *sent)
        ids = add(publisher, function, 3000)
        publisher.flush()
        server.kill()
        ids += add(publisher, function, 10)
        with contextlib.suppress(BrokerUnavailable):
            publisher.confirm()  # all of it may have been confirmed before
        with pytest.raises(BrokerUnavailable):
            publisher.flush()
        with pytest.raises(BrokerUnavailable):
            publisher.flush()
        assert publisher.unconfirmed_count >= 10
        server.start()
        publisher.flush()
        publisher.confirm()
        found = first_of_each(task_ids(take_all(url, "celery")))
        assert [i for i in found if i in set(sent + ids)] == sent + ids
        assert publisher.unconfirmed_count == 0


def test_broker_away_at_the_start(mortal: Any) -> None:
    server, url = mortal
    server.kill()
    with publishing(make_app(url)) as publisher:
        function = publisher.prepare("shop.send")
        ids = add(publisher, function, 3)
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="could not be reached"):
                publisher.flush()
        server.start()
        publisher.flush()
        publisher.confirm()
        assert task_ids(take_all(url, "celery")) == ids


def through(proxy: Proxy, url: str) -> str:
    parts = urlsplit(url)
    return url.replace(f":{parts.port}", f":{proxy.port}")


def test_connection_cut_between_flush_and_confirm(broker_url: str) -> None:
    with (
        Proxy(urlsplit(broker_url).port or 0) as proxy,
        publishing(make_app(through(proxy, broker_url))) as publisher,
    ):
        [function] = prepared(publisher)
        proxy.stall()
        ids = add(publisher, function, 50)
        publisher.flush()
        proxy.cut()
        proxy.flow()
        with pytest.raises(BrokerUnavailable):
            publisher.confirm()
        assert publisher.unconfirmed_count == 50
        ids += add(publisher, function, 5)
        publisher.flush()
        publisher.confirm()
        assert first_of_each(task_ids(take_all(broker_url, "celery"))) == ids


def test_what_a_lost_connection_had_is_never_taken_for_confirmed(broker_url: str) -> None:
    """Even if confirmation is awaited again before everything has been flushed again."""
    with (
        Proxy(urlsplit(broker_url).port or 0) as proxy,
        publishing(make_app(through(proxy, broker_url))) as publisher,
    ):
        [function] = prepared(publisher)
        proxy.stall()
        ids = add(publisher, function, 5)
        publisher.flush()
        proxy.cut()
        proxy.flow()
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                publisher.confirm()
        assert publisher.unconfirmed_count == 5
        publisher.flush()
        publisher.confirm()
        assert first_of_each(task_ids(take_all(broker_url, "celery"))) == ids


def test_silent_broker_is_given_up_at_the_deadline(broker_url: str) -> None:
    with (
        Proxy(urlsplit(broker_url).port or 0) as proxy,
        publishing(
            make_app(through(proxy, broker_url), broker_connection_timeout=1), timeout_seconds=0.5
        ) as publisher,
    ):
        [function] = prepared(publisher)
        ids = add(publisher, function, 3)
        proxy.stall()
        publisher.flush()
        with pytest.raises(BrokerUnavailable, match="did not confirm"):
            publisher.confirm()
        with pytest.raises(BrokerUnavailable, match="could not be reached"):
            publisher.flush()
        proxy.flow()
        publisher.flush()
        publisher.confirm()
        assert first_of_each(task_ids(take_all(broker_url, "celery"))) == ids


def test_close_does_not_wait_for_a_silent_broker(broker_url: str) -> None:
    with Proxy(urlsplit(broker_url).port or 0) as proxy:
        with publishing(make_app(through(proxy, broker_url)), timeout_seconds=1) as publisher:
            [function] = prepared(publisher)
            add(publisher, function, 3)
            proxy.stall()
            publisher.flush()
            started = time.monotonic()
            publisher.close()
            assert time.monotonic() - started < 5
        proxy.flow()


def test_fails_over_to_the_next_url(broker_url: str) -> None:
    dead = through(Proxy(1), broker_url)  # accepts, and closes
    with publishing(make_app(f"{dead};{broker_url}")) as publisher:
        [function] = prepared(publisher)
        task_id = new_id()
        send(publisher, function, task_id)
        assert task_ids(take_all(broker_url, "celery")) == [task_id]


def test_idle_connection_answers_heartbeats(amqp_url: str) -> None:
    with publishing(make_app(amqp_url, broker_heartbeat=1)) as publisher:
        [function] = prepared(publisher)
        amqp: Any = publisher._writer._amqp  # type: ignore[attr-defined]
        received = amqp.bytes_recv
        # RabbitMQ sends them twice a second and hangs up after two seconds without one.
        wait_until(lambda: amqp.bytes_recv >= received + 8, timeout=15)
        task_id = new_id()
        send(publisher, function, task_id)
        assert publisher._writer._amqp is amqp  # type: ignore[attr-defined]
        assert task_ids(take_all(amqp_url, "celery")) == [task_id]


def test_unknown_transport_is_one_clear_error() -> None:
    with pytest.raises(ConfigurationError, match=r"'nonsense' can't be used"):
        Publisher.open(make_app("nonsense://localhost"))


def test_password_is_never_told() -> None:
    for url in ("amqp://shop:s3cr3t-pass@127.0.0.1:1//", "redis://:s3cr3t-pass@127.0.0.1:1/0"):
        with publishing(make_app(url), timeout_seconds=1) as publisher:
            assert "s3cr3t" not in publisher.describe()
            add(publisher, publisher.prepare("shop.send"), 1)
            with pytest.raises(BrokerUnavailable) as raised:
                publisher.flush()
            assert "s3cr3t" not in str(raised.value)
            assert "127.0.0.1:1/" in str(raised.value)


def test_unreadable_url_is_told_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="percent-encoded") as raised:
        Publisher.open(make_app("amqp://shop:s3cr3t/half#half@127.0.0.1//"))
    assert "s3cr3t" not in str(raised.value)
    assert raised.value.__suppress_context__


def test_pickle_is_refused_at_once(broker_url: str) -> None:
    with (
        publishing(make_app(broker_url, task_serializer="pickle")) as publisher,
        pytest.raises(ConfigurationError, match="pickle"),
    ):
        publisher.prepare("shop.send")


def test_task_without_an_argument_is_refused_at_once(broker_url: str) -> None:
    app = make_app(broker_url)

    @app.task(name="shop.nothing", shared=False)
    def nothing() -> None: ...

    with publishing(app) as publisher, pytest.raises(ConfigurationError, match=r"shop\.nothing"):
        publisher.prepare(nothing)


def test_eager_tasks_run_here_with_an_event() -> None:
    app = make_app("memory://", task_always_eager=True, task_eager_propagates=True)
    seen: list[Any] = []

    @app.task(name="shop.eager", shared=False, bind=True)
    def eager(self: Any, event: Any) -> None:
        seen.append((self.request.id, event.name))

    with publishing(app) as publisher:
        function = publisher.prepare(eager)
        task_id = new_id()
        publisher.add(function, task_id, VALUE, ARGSREPR)
        assert seen == []
        publisher.flush()
        publisher.confirm()
    assert seen == [(task_id, "users")]


def test_other_transports_go_through_kombus_publish() -> None:
    with publishing(make_app("memory://")) as publisher:
        [function] = prepared(publisher)
        assert function.way == "collect"
        ids = [new_id(), new_id()]
        send(publisher, function, *ids)
        channel: Any = publisher._writer._link.connection.default_channel  # type: ignore[attr-defined]
        found = [channel.basic_get("celery", no_ack=True).headers["id"] for _ in ids]
        assert found == ids


def test_task_sent_events_go_out_as_one_message(broker_url: str) -> None:
    app = make_app(broker_url, task_send_sent_event=True)
    with publishing(app) as publisher, app.connection_for_read() as upstream:
        [function] = prepared(publisher)
        assert function.way == "template"
        received: list[Any] = []
        receiver = app.events.Receiver(upstream, handlers={"*": received.append}, routing_key="task.#")
        with receiver.consumer_context() as (connection, _, _):
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.2)  # on Redis events are published: subscribe first
            ids = [new_id() for _ in range(3)]
            send(publisher, function, *ids)
            while len(received) < 3:
                connection.drain_events(timeout=5)
    assert [(e["type"], e["uuid"], e["name"], e["args"], e["queue"]) for e in received] == [
        ("task-sent", task_id, "shop.send", ARGSREPR, "celery") for task_id in ids
    ]
