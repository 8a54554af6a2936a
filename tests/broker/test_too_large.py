"""A message over the broker's limit: which one it is, its event, and the others (promises 1, 2)."""

from __future__ import annotations

from typing import Any

import pytest
from celery import signals
from kombu.transport import TRANSPORT_ALIASES, memory

from tests.broker.support import ARGSREPR, VALUE, make_app, new_id, publishing, take_all, task_ids
from walex_celery import Event
from walex_celery.errors import MessageTooLarge
from walex_celery.testing.servers import RabbitMQ, Valkey

ROUTES = {"shop.a": {"queue": "a"}, "shop.b": {"queue": "b"}}


def large(size: int) -> bytes:
    return VALUE.replace(b'"q":"', b'"q":"' + b"x" * size)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("way", ["template", "collect", "changed"])
def test_the_event_is_read_back(broker_url: str, way: str, compression: str | None) -> None:
    """Out of the message as it goes onto the wire; or, if a receiver of a signal hid it there, from beside it."""

    def changed(body: Any, **named: Any) -> None:
        argument = body[0][0]
        argument["secret"] = argument.pop("__value__")[::-1]
        del argument["__type__"]

    app = make_app(broker_url, task_compression=compression)
    if way == "collect":
        app.conf.task_routes = (lambda name, *args, **options: {"queue": "celery"},)
    signal: Any = signals.before_task_publish
    if way == "changed":
        signal.connect(changed)
    try:
        with publishing(app) as publisher:
            function = publisher.prepare("shop.a")
            assert function.way == ("template" if way == "template" else "collect")
            publisher.add(function, new_id(), VALUE, ARGSREPR)
            (item,) = publisher._items
            error = MessageTooLarge("", task="", task_id="", size_bytes=0, limit_bytes=0, message=item)
            assert Event.from_json(publisher.event_text(error)) == Event.from_json(VALUE)
    finally:
        signal.disconnect(changed)


@pytest.mark.parametrize("kind", ["valkey", "rabbitmq"])
def test_the_others_are_sent_in_order_and_once(kind: str, request: pytest.FixtureRequest) -> None:
    """All that are too large are named at once, and leave no task-sent event."""
    limit = 1 << 20
    server: Valkey | RabbitMQ
    if kind == "valkey":
        server = Valkey(settings={"proto-max-bulk-len": str(limit)})
    else:
        server = RabbitMQ(settings={"max_message_size": str(limit)})
    with server, publishing(make_app(server.url(), task_routes=ROUTES)) as publisher:
        functions = {queue: publisher.prepare(f"shop.{queue}") for queue in "ab"}
        publisher.declare()
        sent: dict[str, list[str]] = {"a": [], "b": []}
        refused: list[str] = []
        for number in range(40):
            queue, task_id = "ab"[number % 2], new_id()
            too_large = number % 13 == 5
            (refused if too_large else sent[queue]).append(task_id)
            publisher.add(functions[queue], task_id, large(2 * limit) if too_large else VALUE, ARGSREPR)
            if number % 10 == 9:
                _flush(publisher, refused)
        while publisher.unconfirmed_count:
            _flush(publisher, refused)
            _confirm(publisher, refused)
        assert refused == []
        messages = take_all(server.url(), "a", "b")
        for queue in "ab":
            found = task_ids([message for message in messages if message["queue"] == queue])
            assert list(dict.fromkeys(found)) == sent[queue]


def test_task_sent_events_of_a_large_batch(amqp_url: str, rabbitmq: RabbitMQ) -> None:
    """They are not one message, which RabbitMQ would refuse, closing the channel."""
    rabbitmq.ctl("eval", "application:set_env(rabbit, max_message_size, 1048576).")
    try:
        with publishing(make_app(amqp_url, task_send_sent_event=True)) as publisher:
            function = publisher.prepare("shop.a")
            publisher.declare()
            for _ in range(2):
                for _ in range(5000):
                    publisher.add(function, new_id(), VALUE, ARGSREPR)
                publisher.flush()
                publisher.confirm()
        assert len(take_all(amqp_url, "celery")) == 10_000
    finally:
        rabbitmq.ctl("eval", "application:set_env(rabbit, max_message_size, 134217728).")


def _flush(publisher: Any, refused: list[str]) -> None:
    try:
        publisher.flush()
    except MessageTooLarge as error:
        _leave_out(publisher, error, refused)


def _confirm(publisher: Any, refused: list[str]) -> None:
    try:
        publisher.confirm()
    except MessageTooLarge as error:
        _leave_out(publisher, error, refused)


def _leave_out(publisher: Any, error: MessageTooLarge, refused: list[str]) -> None:
    for one in error.each:
        assert one.task_id in refused
        assert one.limit_bytes == 1 << 20 < one.size_bytes
        refused.remove(one.task_id)
        publisher.leave_out(one)


class _Channel(memory.Channel):
    """As Amazon SQS, whose limit is that of the service."""

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        if len(message["body"]) > 2000:
            raise RuntimeError(
                "An error occurred (InvalidParameterValue) when calling the SendMessage operation: One or more "
                "parameters are invalid. Reason: Message must be shorter than 2000 bytes."
            )
        super()._put(queue, message, **options)


class Limited(memory.Transport):
    """A transport that has no driver of its own here."""

    Channel = _Channel


def test_another_transport_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSPORT_ALIASES, "limited", f"{__name__}:Limited")
    with publishing(make_app("limited://")) as publisher:
        function = publisher.prepare("shop.a")
        ids = [new_id() for _ in range(4)]
        for number, task_id in enumerate(ids):
            publisher.add(function, task_id, large(3000) if number == 2 else VALUE, ARGSREPR)
        with pytest.raises(MessageTooLarge, match=r"Amazon SQS' limit, which is 2000 bytes") as raised:
            publisher.flush()
        assert raised.value.task_id == ids[2]
        assert Event.from_json(publisher.event_text(raised.value)) == Event.from_json(large(3000))
        publisher.leave_out(raised.value)
        publisher.flush()
        publisher.confirm()
        assert publisher.unconfirmed_count == 0
        with make_app("limited://").connection() as connection:
            queue = connection.SimpleQueue("celery")
            found = [queue.get(block=False).headers["id"] for _ in range(len(queue))]
        assert found == [ids[0], ids[1], ids[3]]
