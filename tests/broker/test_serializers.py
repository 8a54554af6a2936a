"""Serializers: a worker gets an Event, or the task is refused before anything is sent (promise 8)."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from typing import Any

import pytest
from celery.contrib.testing.worker import start_worker
from kombu.serialization import register, register_json, unregister
from kombu.utils import json as kombu_json

from tests.broker.support import ARGSREPR, VALUE, make_app, new_id, publishing, send
from walex_celery import ConfigurationError, Event


@pytest.fixture
def own_serializer() -> Iterator[None]:
    """Two of a user's own: ``plain`` knows nothing of kombu's tagged types, ``tagged`` does."""
    register("plain", json.dumps, json.loads, "application/x-plain", "utf-8")
    register("tagged", kombu_json.dumps, kombu_json.loads, "application/x-tagged", "utf-8")
    yield
    unregister("plain")
    unregister("tagged")


@pytest.mark.usefixtures("own_serializer")
@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("serializer", ["yaml", "plain"])
def test_a_serializer_that_makes_no_event_is_refused_at_once(
    serializer: str, compression: str | None, protocol: int, broker_url: str
) -> None:
    """The task would get a dict."""
    expected = (
        f"Task 'shop.send' is serialized with {serializer}, .* a dict instead of an Event.*\n  fix: .*'json'"
    )
    conf = {"task_protocol": protocol, "task_compression": compression}

    with (
        publishing(make_app(broker_url, task_serializer=serializer, **conf)) as publisher,
        pytest.raises(ConfigurationError, match=expected),
    ):
        publisher.prepare("shop.send")

    app = make_app(broker_url, **conf)

    @app.task(name="shop.send", shared=False, serializer=serializer)
    def shop_send(event: Event) -> None: ...

    with publishing(app) as publisher, pytest.raises(ConfigurationError, match=expected):
        publisher.prepare(shop_send)


def test_json_that_was_registered_again_is_refused_if_it_makes_no_event(redis_url: str) -> None:
    """With a faster library, say, of which the content type tells nothing."""
    register("json", json.dumps, json.loads, content_type="application/json", content_encoding="utf-8")
    try:
        with (
            publishing(make_app(redis_url)) as publisher,
            pytest.raises(ConfigurationError, match="a dict instead"),
        ):
            publisher.prepare("shop.send")
    finally:
        register_json()


def test_msgpack_is_refused_at_once(broker_url: str) -> None:
    """Whether its library is installed or not."""
    with (
        publishing(make_app(broker_url, task_serializer="msgpack")) as publisher,
        pytest.raises(ConfigurationError, match=r"msgpack|No encoder installed|'shop.send' can't be sent"),
    ):
        publisher.prepare("shop.send")


@pytest.mark.usefixtures("own_serializer")
def test_a_serializer_of_the_user_s_own_that_makes_events_is_used(broker_url: str) -> None:
    app = make_app(
        broker_url, task_serializer="tagged", accept_content=["tagged"], worker_hijack_root_logger=False
    )
    done: queue.Queue[Any] = queue.Queue()

    @app.task(name="shop.send", shared=False)
    def shop_send(event: Event) -> None:
        done.put(event)

    with publishing(app) as publisher:
        function = publisher.prepare(shop_send)
        publisher.declare()
        send(publisher, function, new_id())
        with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=20):
            event = done.get(timeout=20)
    assert isinstance(event, Event)
    assert event.name == "users"


def test_a_serializer_chosen_for_each_message_is_refused_when_it_is_used(redis_url: str) -> None:
    """By the task's own apply_async: nothing is known of it before the first event."""
    app = make_app(redis_url)

    class InYaml(app.Task):  # type: ignore[misc,name-defined]
        def apply_async(self, *args: Any, **options: Any) -> Any:
            return super().apply_async(*args, **{**options, "serializer": "yaml"})

    @app.task(name="shop.send", shared=False, base=InYaml)
    def shop_send(event: Event) -> None: ...

    with publishing(app) as publisher:
        function = publisher.prepare(shop_send)
        with pytest.raises(ConfigurationError, match="a dict instead"):
            publisher.add(function, new_id(), VALUE, ARGSREPR)
