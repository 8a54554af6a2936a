"""Tasks and their position are stored together or not at all, and by the one publisher that holds the position."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Task
from kombu import Queue

from tests.broker.support import ARGSREPR, VALUE, Proxy, make_app, new_id, publishing, take_all, task_ids
from tests.support import wait_until
from walex_celery.broker import Publisher, TaskTarget
from walex_celery.broker.position import Position
from walex_celery.errors import BrokerUnavailable, ConfigurationError, Fenced, PublishRefused
from walex_celery.testing.servers import Valkey

KEY = "walex:1:shop_walex"
ROUTES = {"shop.a": {"queue": "a"}, "shop.b": {"queue": "b"}}


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
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


def stored(valkey: Valkey, key: str = KEY) -> int | None:
    with valkey.client(1) as client:
        found = client.hget(key, "position")
    return None if found is None else int(found)


def test_the_position_is_stored_with_its_tasks_and_a_lost_reply_costs_nothing(own_valkey: Valkey) -> None:
    app = make_app(own_valkey.url(1), broker_transport_options={"global_keyprefix": "shop:"})
    with publishing(app, exactly_once=True) as publisher:
        function = publisher.prepare("shop.send")
        assert publisher.take_over(KEY) is None
        ids = add(publisher, function, 3)
        finish(publisher, 100)
        assert stored(own_valkey, "shop:" + KEY) == 100
        ids += add(publisher, function, 3)
        publisher.flush(200)
        own_valkey.restart()  # it took the batch: the reply is lost
        ids += add(publisher, function, 2)
        with pytest.raises(BrokerUnavailable):
            finish(publisher, 300)
        publisher.declare()  # connects, before the next flush does
        finish(publisher)
        assert publisher.unconfirmed_count == 0
        assert stored(own_valkey, "shop:" + KEY) == 300
        assert publisher.take_over(KEY) == 300
        publisher.reset_position()
        assert publisher.take_over(KEY) is None
    assert task_ids(take_all(own_valkey.url(1))) == ids


def test_a_landmark_is_stored_with_its_position(valkey: Valkey, redis_url: str) -> None:
    """One that an older version left behind, because it stores only positions, is not taken for the next one's."""
    number = int(urlsplit(redis_url).path[1:])
    with publishing(make_app(redis_url), exactly_once=True) as publisher, valkey.client(number) as client:
        function = publisher.prepare("shop.send")
        publisher.take_over(KEY)
        add(publisher, function, 1)
        finish(publisher, Position(100, "a place"))
        found = publisher.take_over(KEY)
        assert found == 100
        assert found.landmark == "a place"

        client.hset(KEY, "position", 200)
        found = publisher.take_over(KEY)
        assert found == 200
        assert found.landmark == ""
        publisher.reset_position()
        assert not client.hexists(KEY, "landmark")


def test_a_note_is_left_to_the_next_one_alone(redis_url: str) -> None:
    app = make_app(redis_url)
    with publishing(app, exactly_once=True) as first, publishing(app, exactly_once=True) as second:
        first.leave("nothing is held yet, so nothing is stored")
        function = first.prepare("shop.send")
        first.take_over(KEY)
        add(first, function, 1)
        finish(first, 100)
        first.leave("so far")
        found = second.take_over(KEY)
        assert found is not None
        assert found.note == "so far"
        with pytest.raises(Fenced):
            first.leave("further")
        found = second.take_over(KEY)
        assert found is not None
        assert found.note == ""


def test_what_an_earlier_connection_has_on_its_way_comes_too_late(own_valkey: Valkey) -> None:
    """The broker reads it after the publisher has given up on it, and sent it again."""
    url = own_valkey.url(1)
    port = urlsplit(url).port or 0
    with Proxy(port) as proxy:
        app = make_app(url.replace(f":{port}", f":{proxy.port}"))
        with publishing(app, exactly_once=True, timeout_seconds=0.5) as publisher:
            function = publisher.prepare("shop.send")
            publisher.take_over(KEY)
            ids = add(publisher, function, 1)
            finish(publisher, 1)
            proxy.stall()
            ids += add(publisher, function, 1)
            publisher.flush(2)
            with pytest.raises(BrokerUnavailable):
                publisher.confirm()
            # A proxy of its own: what the first holds back stays there.
            with Proxy(port) as other:
                publisher._writer._link.connection.port = other.port  # type: ignore[attr-defined]
                finish(publisher)
                assert stored(own_valkey) == 2
                with own_valkey.client(1) as client:
                    before = client.info("commandstats")["cmdstat_eval"]["calls"]
                    proxy.flow()
                    wait_until(lambda: client.info("commandstats")["cmdstat_eval"]["calls"] > before)
    assert task_ids(take_all(url)) == ids


def test_what_was_added_since_is_taken_back(redis_url: str) -> None:
    """The rest of a transaction can't be made: no position covers a part of it."""
    with publishing(make_app(redis_url, task_send_sent_event=True), exactly_once=True) as publisher:
        function = publisher.prepare("shop.send")
        publisher.take_over(KEY)
        ids = add(publisher, function, 2)
        before, size_bytes = publisher.added(), publisher.unconfirmed_bytes
        add(publisher, function, 3)
        publisher.take_back(before)
        assert publisher.added() == before
        assert (publisher.unconfirmed_count, publisher.unconfirmed_bytes) == (2, size_bytes)
        finish(publisher, 10)
    assert task_ids(take_all(redis_url)) == ids


class Swallowing(Proxy):
    """Keeps the server's replies to itself, once it is told to."""

    swallows = False

    def forward(self, data: bytes, source: socket.socket, sink: socket.socket) -> None:
        if not (self.swallows and source.getpeername() == self._target):
            super().forward(data, source, sink)


def test_a_batch_whose_reply_was_lost_is_not_stored_again(own_valkey: Valkey) -> None:
    """The position that was stored last is its own."""
    url = own_valkey.url(1)
    port = urlsplit(url).port or 0
    with Swallowing(port) as proxy:
        app = make_app(url.replace(f":{port}", f":{proxy.port}"))
        with publishing(app, exactly_once=True) as publisher:
            function = publisher.prepare("shop.send")
            publisher.declare()
            publisher.take_over(KEY)
            proxy.swallows = True
            ids = add(publisher, function, 3)
            publisher.flush(100)
            wait_until(lambda: stored(own_valkey) == 100)
            proxy.cut()
            proxy.swallows = False
            ids += add(publisher, function, 2)
            with pytest.raises(BrokerUnavailable):
                finish(publisher, 200)
            finish(publisher)
            assert publisher.unconfirmed_count == 0
            assert stored(own_valkey) == 200
    assert task_ids(take_all(url)) == ids


def test_another_publisher_takes_over_and_the_first_is_refused(redis_url: str) -> None:
    with (
        publishing(make_app(redis_url), exactly_once=True) as first,
        publishing(make_app(redis_url), exactly_once=True) as second,
    ):
        function = first.prepare("shop.send")
        assert first.take_over(KEY) is None
        ids = add(first, function, 2)
        finish(first, 10)
        add(first, function, 2)
        assert second.take_over(KEY) == 10
        first.flush(20)
        with pytest.raises(Fenced, match=rf"'{KEY}'.*process \d+\).*another producer has taken over"):
            first.confirm()
        with pytest.raises(Fenced):
            finish(first)
        with pytest.raises(Fenced):
            first.reset_position()
        ids += add(second, second.prepare("shop.send"), 2)
        finish(second, 20)
        assert first.take_over(KEY) == 20
        assert first.unconfirmed_count == 0
        ids += add(first, function, 1)
        finish(first, 30)
    assert task_ids(take_all(redis_url)) == ids


def test_what_was_added_or_flushed_before_a_takeover_is_forgotten(redis_url: str, valkey: Valkey) -> None:
    """Its replies too: the next batch's confirmation is its own."""
    app = make_app(redis_url)
    number = int(urlsplit(redis_url).path[1:])
    with publishing(app, exactly_once=True) as first, publishing(app, exactly_once=True) as second:
        function = first.prepare("shop.send")
        first.take_over(KEY)
        add(first, function, 3)
        assert first.unconfirmed_count == 3
        first.take_over(KEY)
        assert (first.unconfirmed_count, first.unconfirmed_bytes) == (0, 0)

        ids = add(first, function, 1)
        first.flush(10)
        with valkey.client(number) as client:
            wait_until(lambda: client.hget(KEY, "position") == b"10")
        assert first.take_over(KEY) == 10
        ids += add(first, function, 1)
        finish(first, 20)

        add(first, function, 1)
        second.take_over(KEY)
        first.flush(30)
        with pytest.raises(Fenced):
            first.confirm()
    assert task_ids(take_all(redis_url)) == ids


def test_a_new_connection_of_a_publisher_that_was_replaced_takes_nothing_back(
    redis_url: str, valkey: Valkey
) -> None:
    with (
        publishing(make_app(redis_url), exactly_once=True) as first,
        publishing(make_app(redis_url), exactly_once=True) as second,
    ):
        function = first.prepare("shop.send")
        first.take_over(KEY)
        ids = add(first, function, 1)
        finish(first, 10)
        add(first, function, 1)
        assert second.take_over(KEY) == 10
        with valkey.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)

        with pytest.raises(Fenced):
            finish(first, 20)

        ids += add(second, second.prepare("shop.send"), 1)
        finish(second, 20)
    assert task_ids(take_all(redis_url)) == ids


def test_no_position_is_stored_beyond_a_batch_that_was_refused(own_valkey: Valkey) -> None:
    """It would say that all before it is in the broker."""
    app = make_app(own_valkey.url(1), task_routes=ROUTES)
    with own_valkey.client(1) as client, publishing(app, exactly_once=True) as publisher:
        a, b = publisher.prepare("shop.a"), publisher.prepare("shop.b")
        publisher.declare()
        publisher.take_over(KEY)
        client.set("a", "not a list")
        to_a = add(publisher, a, 1)
        publisher.flush(100)
        to_b = add(publisher, b, 1)
        for _ in range(2):
            with pytest.raises(PublishRefused, match="WRONGTYPE"):
                publisher.flush(200)
            assert stored(own_valkey) is None
            assert client.llen("b") == 0
        client.delete("a")
        finish(publisher)
        assert stored(own_valkey) == 200
    assert task_ids(take_all(own_valkey.url(1))) == to_a + to_b


def test_a_deleted_position_is_not_silently_made_again(own_valkey: Valkey) -> None:
    with (
        publishing(make_app(own_valkey.url(1)), exactly_once=True) as publisher,
        own_valkey.client(1) as client,
    ):
        function = publisher.prepare("shop.send")
        publisher.take_over(KEY)
        add(publisher, function, 1)
        client.flushdb()
        with pytest.raises(Fenced, match="the key was deleted"):
            finish(publisher, 10)
    assert take_all(own_valkey.url(1)) == []


def test_nothing_is_stored_of_what_was_refused(own_valkey: Valkey) -> None:
    app = make_app(own_valkey.url(1), task_routes=ROUTES)
    with own_valkey.client() as client, publishing(app, exactly_once=True) as publisher:
        a, b = publisher.prepare("shop.a"), publisher.prepare("shop.b")
        publisher.declare()
        publisher.take_over(KEY)
        client.config_set("maxmemory", "1")
        ids = add(publisher, a, 2) + add(publisher, b, 2500)
        for _ in range(2):
            with pytest.raises(PublishRefused, match=r"OOM.*maxmemory.*let the workers catch up"):
                finish(publisher, 200)
        assert stored(own_valkey) is None
        client.config_set("maxmemory", "0")
        finish(publisher)
        assert stored(own_valkey) == 200
    assert task_ids(take_all(own_valkey.url(1))) == ids


def test_a_queue_that_is_no_list_is_found_before_anything_is_written(own_valkey: Valkey) -> None:
    app = make_app(own_valkey.url(1), task_routes=ROUTES)
    with own_valkey.client(1) as client, publishing(app, exactly_once=True) as publisher:
        a, b = publisher.prepare("shop.a"), publisher.prepare("shop.b")
        publisher.declare()
        publisher.take_over(KEY)
        client.set("b", "not a list")
        to_a, to_b = add(publisher, a, 1), add(publisher, b, 1)
        with pytest.raises(PublishRefused, match=r"queue 'b'.*WRONGTYPE"):
            finish(publisher, 200)
        assert client.llen("a") == 0
        client.delete("b")
        finish(publisher)
        assert stored(own_valkey) == 200
    assert task_ids(take_all(own_valkey.url(1))) == to_a + to_b


def test_expiring_and_fanout_queues_are_stored_with_the_position(own_valkey: Valkey) -> None:
    queues = [Queue("brief", expires=60)]
    app = make_app(own_valkey.url(1), task_queues=queues, task_default_queue="brief")
    with own_valkey.client(1) as client, publishing(app, exactly_once=True) as publisher:
        function = publisher.prepare("shop.send")
        publisher.take_over(KEY)
        add(publisher, function, 3)
        finish(publisher, 7)
        assert client.llen("brief") == 3
        assert 0 < client.pttl("brief") <= 60_000
        assert stored(own_valkey) == 7


def test_what_can_t_be_stored_together_is_refused_at_the_start(redis_url: str, amqp_url: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"exactly_once_enqueue needs Redis or Valkey.*not amqp://guest"
    ):
        Publisher.open(make_app(amqp_url), exactly_once=True)
    with pytest.raises(ConfigurationError, match="exactly_once_enqueue needs Redis or Valkey"):
        Publisher.open(make_app("memory://"), exactly_once=True)
    app = make_app(redis_url)

    class Locked(Task):  # type: ignore[type-arg]
        def apply_async(self, *args: Any, **options: Any) -> Any: ...

    @app.task(name="shop.locked", base=Locked)
    def locked(event: object) -> None: ...

    with (
        publishing(app, exactly_once=True) as publisher,
        pytest.raises(
            ConfigurationError,
            match=r"'shop.locked' can't be enqueued exactly once, because Locked overrides apply_async",
        ),
    ):
        publisher.prepare(locked)
