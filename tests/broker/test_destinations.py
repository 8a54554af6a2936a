"""A destination chosen per event costs no template, and gives the messages that apply_async gives (promises 1 to 3)."""

from __future__ import annotations

import contextlib
import json
import logging
import zlib
from typing import Any, cast

import pytest
from amqp import NotFound
from celery import Celery, signals
from kombu import Exchange, Queue

from tests.broker.support import ARGSREPR, VALUE, make_app, new_id, publishing, send, take_all, task_ids
from tests.broker.test_conformance import assert_same, comparable
from tests.support import wait_until
from walex_celery import Event
from walex_celery.broker import Destination, Publisher, TaskTarget, by_event
from walex_celery.broker.durability import examine, queues_of
from walex_celery.broker.templates.body import wire_argument
from walex_celery.broker.templates.keyed import MOST_DESTINATIONS
from walex_celery.errors import ConfigurationError
from walex_celery.pipeline.task_messages import make_tasks, make_tasks_plainly

# Celery 5.7 deprecates routing by task attributes; as long as it honours them, so do we.
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*task attribute is deprecated")

LANES = [Destination(queue=f"lane{number}") for number in range(4)]
QUEUES = [str(lane.queue) for lane in LANES]


def lying_in(url: str, *queues: str) -> list[dict[str, Any]]:
    """The messages in the broker, oldest first; on AMQP in those of the queues that exist."""
    if url.startswith("redis"):
        return take_all(url)
    found = []
    for queue in queues:
        with contextlib.suppress(NotFound):
            found += take_all(url, queue)
    return found


def ids_by_queue(url: str, *queues: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for message in lying_in(url, *queues):
        found.setdefault(message["queue"], []).append(message["headers"]["id"])
    return found


def value_of(key: int) -> bytes:
    return VALUE.replace(b'"id":42', b'"id":%d' % key)


def lane_of(value: bytes, head: bytes = b"") -> Destination:
    return LANES[zlib.crc32(value) % len(LANES)]


def register(app: Celery, **options: Any) -> Any:
    @app.task(name="shop.send", shared=False, **options)
    def shop_send(event: Any) -> None: ...

    return shop_send


DESTINATIONS = {
    "queue": Destination(queue="mail"),
    "priority": Destination(priority=3),
    "queue and priority": Destination(queue="mail", priority=9),
    "routing key": Destination(queue="orders", routing_key="orders.new"),
    "the task's own": Destination(),
}


@pytest.mark.parametrize("way", ["template", "collect", "apply_async"])
@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize("destination", DESTINATIONS.values(), ids=DESTINATIONS.keys())
def test_message_equals_apply_asyncs(
    destination: Destination, registered: bool, way: str, broker_url: str
) -> None:
    topic = Queue("orders", Exchange("shop", type="topic"), routing_key="orders.#")
    conf: dict[str, Any] = {"task_queues": [topic, Queue("mail"), Queue("own")], "task_default_queue": "own"}
    if way == "collect":
        conf["task_protocol"] = 1
    app = make_app(broker_url, **conf)
    task = register(app, queue="own", priority=5)
    if way == "apply_async":
        app.send_task = app.send_task  # type: ignore[method-assign]
    task_id, queue = new_id(), destination.queue or "own"
    options = {"task_id": task_id, "argsrepr": ARGSREPR, "kwargsrepr": "{}", **destination.options()}
    with publishing(app) as publisher:
        target = publisher.prepare(task if registered else "shop.send", destination=lambda *_: destination)
        assert target.way == way
        publisher.declare()
        task.apply_async((wire_argument(VALUE),), {}, **options)
        [theirs] = wait_until(lambda: lying_in(broker_url, "own", "mail", "orders"))
        send(publisher, target, task_id)
        [ours] = lying_in(broker_url, "own", "mail", "orders")
    assert ours["queue"].startswith(queue)
    assert_same(comparable(ours), comparable(theirs))


def test_events_are_spread_over_queues_by_their_key_and_keep_their_order(broker_url: str) -> None:
    values = [value_of(number % 50) for number in range(600)]
    expected: dict[str, list[str]] = {queue: [] for queue in QUEUES}
    with publishing(make_app(broker_url)) as publisher:
        target = publisher.prepare("shop.send", destination=lane_of, among=LANES)
        publisher.declare()
        for value in values:
            task_id = new_id()
            expected[str(lane_of(value).queue)].append(task_id)
            assert target.template is not None
            assert target.template(task_id, value, ARGSREPR) is not None
            publisher.add(target, task_id, value, ARGSREPR)
        publisher.flush()
        publisher.confirm()
    assert all(expected.values())
    assert ids_by_queue(broker_url, "celery", *QUEUES) == expected


def test_destinations_known_at_the_start_are_declared(
    broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(broker_url)
    with publishing(app) as publisher:
        target = publisher.prepare("shop.send", destination=lane_of, among=LANES)
        assert sorted(queue.name for queue in queues_of([target])) == QUEUES
        assert [queue for queue in QUEUES if not exists(publisher, queue)] == QUEUES
        publisher.declare()
        assert [queue for queue in QUEUES if not exists(publisher, queue)] == []
        if broker_url.startswith("amqp"):
            assert examine(app, [target]) == []


def exists(publisher: Publisher, queue: str) -> bool:
    with publisher._app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        if connection.transport_cls == "redis":
            return bool(channel.client.exists(f"_kombu.binding.{queue}"))
        try:
            channel.queue_declare(queue, passive=True)
        except connection.channel_errors:
            return False
        return True


def test_a_destination_first_seen_later_is_declared_before_its_first_message(broker_url: str) -> None:
    with publishing(make_app(broker_url)) as publisher:
        target = publisher.prepare("shop.send", destination=lambda *_: Destination(queue="late"))
        assert target.declares == ()
        publisher.declare()
        task_id = new_id()
        send(publisher, target, task_id)
        assert [queue.name for queue in queues_of([target])] == ["late"]
        assert ids_by_queue(broker_url, "late") == {"late": [task_id]}


def test_the_event_itself_may_be_asked(broker_url: str) -> None:
    def by_id(event: Event) -> Destination | None:
        key = event.key
        assert key is not None
        return Destination(queue="even") if key["id"] % 2 == 0 else None

    value = VALUE.replace(b'"columns":', b'"key":["id"],"columns":')
    with publishing(make_app(broker_url)) as publisher:
        target = publisher.prepare("shop.send", destination=by_event(by_id))
        even, odd = new_id(), new_id()
        send(publisher, target, even, value=value)
        send(publisher, target, odd, value=value.replace(b'"id":42', b'"id":43'))
        assert ids_by_queue(broker_url, "even", "celery") == {"even": [even], "celery": [odd]}


def test_the_same_task_and_function_give_the_same_target(redis_url: str) -> None:
    with publishing(make_app(redis_url)) as publisher:
        plain = publisher.prepare("shop.send")
        assert publisher.prepare("shop.send", destination=lane_of) is not plain
        assert publisher.prepare("shop.send", destination=lane_of) is publisher.prepare(
            "shop.send", destination=lane_of
        )
        assert publisher.prepare("shop.send") is plain
        assert plain.to(queue="mail") is plain.to("mail")
        assert plain.to(queue="mail") is not plain.to(queue="mail", priority=3)


def test_a_variant_can_be_added_by_itself(broker_url: str) -> None:
    with publishing(make_app(broker_url)) as publisher:
        plain = publisher.prepare("shop.send")
        mail, usual = new_id(), new_id()
        send(publisher, plain.to(queue="mail"), mail)
        send(publisher, plain, usual)
        assert ids_by_queue(broker_url, "mail", "celery") == {"mail": [mail], "celery": [usual]}


def test_task_sent_events_name_the_destination(redis_url: str) -> None:
    with publishing(make_app(redis_url, task_send_sent_event=True)) as publisher:
        target = publisher.prepare("shop.send", destination=lane_of, among=LANES)
        assert target.way == "template"
        [item], [event] = target.collect("an id", VALUE, ARGSREPR)
        lane = lane_of(VALUE).queue
        assert (event["queue"], event["uuid"], item[0].routing_key) == (lane, "an id", lane)
        task_id = new_id()
        send(publisher, target, task_id)
        assert task_ids(take_all(redis_url)) == [task_id]


def test_receivers_that_come_and_go_are_called_for_every_destination(broker_url: str) -> None:
    seen: list[tuple[Any, Any]] = []

    def receiver(sender: Any = None, headers: Any = None, routing_key: Any = None, **_: Any) -> None:
        seen.append((headers["id"], routing_key))

    with publishing(make_app(broker_url)) as publisher:
        target = publisher.prepare("shop.send", destination=lane_of, among=LANES)
        ids = [new_id() for _ in range(3)]
        send(publisher, target, ids[0])
        signals.before_task_publish.connect(receiver, sender="shop.send")
        try:
            publisher.flush()
            assert (target.way, target.template) == ("collect", None)
            send(publisher, target, ids[1])
        finally:
            signals.before_task_publish.disconnect(receiver, sender="shop.send")
        publisher.flush()
        assert target.template is not None
        send(publisher, target, ids[2])
        assert seen == [(ids[1], lane_of(VALUE).queue)]
        assert task_ids(lying_in(broker_url, *QUEUES)) == ids


BAD = {
    "no destination": ("mail", r"'shop.send' must be a Destination or None, not 'mail'"),
    "not hashable": (["mail"], r"must be a Destination or None, not \['mail'\]"),
    "no name": (Destination(queue=""), r"'shop.send' has queue=''"),
    "no text": (Destination(queue=cast(Any, 7)), r"'shop.send' has queue=7"),
    "a name too long": (Destination(routing_key="k" * 256), "1 to 255 bytes"),
    "no priority": (Destination(priority=256), "priority=256: it must be a number from 0 to 255"),
    "not configured": (
        Destination(queue="nope"),
        r"'shop.send' can't be sent to queue 'nope': .*task_queues",
    ),
}


@pytest.mark.parametrize(("destination", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_destination_is_refused(destination: Any, said: str, broker_url: str) -> None:
    app = make_app(broker_url, task_create_missing_queues=False, task_queues=[Queue("celery")])
    with publishing(app) as publisher:
        with pytest.raises(ConfigurationError, match=said):
            publisher.prepare("shop.send", destination=lane_of, among=[destination])
        target = publisher.prepare("shop.send", destination=lambda *_: destination)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=said):
                publisher.add(target, new_id(), VALUE, ARGSREPR)
        assert publisher.unconfirmed_count == 0


def test_an_error_of_the_function_is_its_own(redis_url: str) -> None:
    def choose(value: bytes, head: bytes) -> Destination:
        raise LookupError("no such key")

    with publishing(make_app(redis_url)) as publisher:
        target = publisher.prepare("shop.send", destination=choose)
        with pytest.raises(LookupError, match="no such key"):
            publisher.add(target, new_id(), VALUE, ARGSREPR)


def test_any_number_of_destinations_takes_bounded_memory(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(redis_url, task_routes={"shop.*": {"queue": "one"}})
    with publishing(app) as publisher:
        target = publisher.prepare(
            "shop.send", destination=lambda value, _: Destination(routing_key=json.loads(value)["key"])
        )
        caplog.clear()  # that the task is not known here is said before
        with caplog.at_level(logging.WARNING):
            for number in range(MOST_DESTINATIONS + 10):
                publisher.add(target, new_id(), b'{"key":"k%d"}' % number, ARGSREPR)
        assert len(target._variants) == 10
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"Task shop.send has had more than {MOST_DESTINATIONS} destinations"
    ]


class Routed:
    """A route as far as messages are made of it."""

    class Tally:
        accepted = count = 0

    def __init__(self, target: TaskTarget) -> None:
        self.tally = Routed.Tally()
        self.targets = ((target, 1, Routed.Tally()),)


class Readable:
    index = 0

    def __init__(self, value: bytes) -> None:
        self.value = value

    def for_task(self) -> tuple[bytes, bytes, str]:
        return self.value, b"", ARGSREPR


@pytest.mark.parametrize("half", [make_tasks, make_tasks_plainly], ids=["in use", "plain"])
def test_templates_of_a_chunk_keep_to_their_destinations(broker_url: str, half: Any) -> None:
    values = [value_of(number) for number in range(20)]
    with publishing(make_app(broker_url)) as publisher:
        route = Routed(publisher.prepare("shop.send", destination=lane_of))
        routed = [(Readable(value), route) for value in values]
        end, items, size = half(routed, 0, 1, 0)
        assert (end, len(items)) == (20, 20)
        assert [item[0].declare[0].name for item in items] == [lane_of(value).queue for value in values]
        assert size == sum(len(item[2]) + len(item[3]) for item in items)
