"""A message of ours is Celery's own, for each option, broker and way (DESIGN section 5; promise 3)."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from celery import Celery, Task, signals
from celery.backends.base import DisabledBackend
from kombu import Exchange, Queue
from kombu.serialization import register, unregister
from kombu.utils import json as kombu_json

from tests.broker.support import ARGSREPR, VALUE, make_app, new_id, publishing, send, take_all
from tests.support import wait_until
from walex_celery.broker.templates.body import wire_argument

# Celery 5.7 deprecates routing by task attributes; as long as it honours them, so do we.
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*task attribute is deprecated")


def route_by_content(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> dict[str, str]:
    return {"queue": "big" if len(args[0]["__value__"]) > 20 else "small"}


class ShadowTask(Task):  # type: ignore[type-arg, unused-ignore]
    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> Any:
        return f"shadow-{len(args[0]['__value__'])}"


class LockingTask(Task):  # type: ignore[type-arg, unused-ignore]
    def apply_async(self, *args: Any, **options: Any) -> Any:
        return super().apply_async(*args, **{**options, "priority": 7})


@dataclass
class Case:
    """One set of options, the queue that the message is expected in, and the way expected."""

    way: str
    queue: str = "celery"
    task: dict[str, Any] = field(default_factory=dict)
    conf: dict[str, Any] = field(default_factory=dict)
    registered: bool = True


TOPIC = Queue("orders", Exchange("shop", type="topic"), routing_key="orders.#")
DIRECT = Queue("invoices", Exchange("billing", type="direct"), routing_key="invoice")
HOUR = timedelta(hours=1)

CASES: dict[str, Case] = {
    "defaults": Case("template"),
    "not registered here": Case("template", registered=False),
    "not registered, routed": Case(
        "template", "elsewhere", registered=False, conf={"task_routes": {"shop.*": {"queue": "elsewhere"}}}
    ),
    "queue": Case("template", "mail", task={"queue": "mail"}),
    "priority": Case("template", task={"priority": 5}),
    "priority of the app": Case("template", conf={"task_default_priority": 6}),
    "max priority": Case("template", task={"priority": 9}, conf={"task_queue_max_priority": 10}),
    "time limits": Case("template", task={"time_limit": 60, "soft_time_limit": 50}),
    "ignore_result": Case("template", task={"ignore_result": True}),
    "delivery_mode": Case("template", task={"delivery_mode": 1}),
    "delivery_mode of the app": Case("template", conf={"task_default_delivery_mode": "transient"}),
    "compression": Case("template", task={"compression": "zlib"}),
    "compression of the app": Case("template", conf={"task_compression": "bzip2"}),
    "another serializer": Case("template", task={"serializer": "walex-test-json"}),
    "routes": Case("template", "mail", conf={"task_routes": {"shop.send": {"queue": "mail"}}}),
    "routes by pattern": Case("template", "mail", conf={"task_routes": ([("shop.*", {"queue": "mail"})],)}),
    "routes with options": Case(
        "template", "mail", conf={"task_routes": {"shop.*": {"queue": "mail", "priority": 2}}}
    ),
    "topic exchange": Case(
        "template",
        "orders",
        task={"exchange": "shop", "routing_key": "orders.new"},
        conf={"task_queues": [TOPIC], "task_routes": {"shop.*": {"queue": "orders"}}},
    ),
    "direct exchange": Case(
        "template", "invoices", task={"queue": "invoices"}, conf={"task_queues": [DIRECT]}
    ),
    "default queue": Case("template", "mine", conf={"task_default_queue": "mine"}),
    "quorum": Case("template", conf={"task_default_queue_type": "quorum"}),
    "rpc backend": Case("template", conf={"result_backend": "rpc://"}),
    "protocol 1": Case("collect", conf={"task_protocol": 1}),
    "expires in seconds": Case("collect", task={"expires": 3600}),
    "expires at a time": Case("collect", task={"expires": datetime.now(UTC) + HOUR}),
    "callable router": Case("collect", "big", conf={"task_routes": (route_by_content,)}),
    "shadow_name": Case("collect", task={"base": ShadowTask}),
    "own apply_async": Case("apply_async", task={"base": LockingTask}),
}

REDIS_CASES: dict[str, Case] = {
    "global_keyprefix": Case(
        "template", conf={"broker_transport_options": {"global_keyprefix": "shop:"}}, task={"priority": 3}
    ),
    "priority steps and separator": Case(
        "template",
        task={"priority": 5},
        conf={"broker_transport_options": {"priority_steps": list(range(10)), "sep": ":"}},
    ),
    "queue_order_strategy": Case(
        "template", conf={"broker_transport_options": {"queue_order_strategy": "priority"}}
    ),
    "body not in base64": Case("collect", conf={"broker_transport_options": {"body_encoding": "utf-8"}}),
    "expiring queue": Case(
        "template",
        "fleeting",
        task={"queue": "fleeting"},
        conf={"task_queues": [Queue("fleeting", Exchange("fleeting"), "fleeting", expires=60)]},
    ),
}


@pytest.fixture(autouse=True)
def _other_serializer() -> Any:
    """A serializer that is not kombu's: other separators, text as it is."""
    dumps: Callable[..., str] = lambda data: json.dumps(data, separators=(",", ":"), ensure_ascii=False)  # noqa: E731
    register("walex-test-json", dumps, kombu_json.loads, "application/x-walex-test-json", "utf-8")
    yield
    unregister("walex-test-json")


def make_task(app: Celery, case: Case) -> Any:
    if not case.registered:
        return "shop.send"

    @app.task(name="shop.send", shared=False, **case.task)
    def shop_send(event: Any) -> None: ...

    return shop_send


def send_as_celery(app: Celery, task: Any, task_id: str) -> None:
    options: dict[str, Any] = {"task_id": task_id, "argsrepr": ARGSREPR, "kwargsrepr": "{}"}
    if isinstance(task, str):
        app.send_task(task, (wire_argument(VALUE),), {}, **options)
    else:
        task.apply_async((wire_argument(VALUE),), {}, **options)


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is random or the time of sending."""
    text = message.pop("text", "")
    message["properties"].pop("argsrepr", None)  # celery passes them on as properties by accident
    message["properties"].pop("kwargsrepr", None)
    message["properties"].pop("delivery_tag", None)
    if "expiration" in message["properties"]:
        message["properties"]["expiration"] = int(message["properties"]["expiration"]) // 60_000
    if isinstance(message["headers"].get("expires"), str):
        message["headers"]["expires"] = message["headers"]["expires"][:13]
    text = re.sub(r'"delivery_tag": "[^"]*"|"(argsrepr|kwargsrepr)": "[^"]*",? ?', "", text)
    if '"expires": "' not in text:
        message["text"] = re.sub(r"[,{} ]", "", text)
    return message


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for key in ours.keys() | theirs.keys():
        mine, his = ours.get(key), theirs.get(key)
        if isinstance(mine, dict) and isinstance(his, dict):
            for name in mine.keys() | his.keys():
                assert (key, name, mine.get(name)) == (key, name, his.get(name))
        assert mine == his


def check(case: Case, url: str) -> None:
    app = make_app(url, **case.conf)
    task = make_task(app, case)
    task_id = new_id()
    with publishing(app) as publisher:
        function = publisher.prepare(task)
        assert (function.way, function.name) == (case.way, "shop.send"), function.reason
        publisher.declare()
        send_as_celery(app, task, task_id)
        [theirs] = wait_until(lambda: take_all(url, case.queue))  # Celery does not wait for confirms
        send(publisher, function, task_id)
        [ours] = take_all(url, case.queue)
    assert_same(comparable(ours), comparable(theirs))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_message_equals_apply_asyncs(case: Case, broker_url: str) -> None:
    check(case, broker_url)


@pytest.mark.parametrize("case", REDIS_CASES.values(), ids=REDIS_CASES.keys())
def test_message_equals_apply_asyncs_on_redis(case: Case, redis_url: str) -> None:
    check(case, redis_url)


def test_signal_receivers_see_each_message_and_may_change_it(
    broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "walex_celery.broker")
    app = make_app(broker_url)
    task = make_task(app, Case("collect"))

    def trace(headers: Any = None, **_: Any) -> None:
        headers["traceparent"] = f"00-{headers['id']}"

    with publishing(app) as publisher:
        before = publisher.prepare(task)
        assert before.way == "template"
        signals.before_task_publish.connect(trace, sender="shop.send")
        try:
            send(publisher, before, new_id())  # notices the receiver at the end of the flush
            assert before.way == "collect"
            assert "before_task_publish" in before.reason
            take_all(broker_url, "celery")
            first, second = new_id(), new_id()
            send(publisher, before, first, second)
        finally:
            signals.before_task_publish.disconnect(trace, sender="shop.send")
        assert [m["headers"]["traceparent"] for m in take_all(broker_url, "celery")] == [
            f"00-{first}",
            f"00-{second}",
        ]
        send(publisher, before, new_id())
        assert before.way == "template"
    fast = "is published from a template, the fastest way: its messages differ in nothing but id and event"
    slow = "is published from a template, slower because receivers are called for each message: "
    assert [record.getMessage() for record in caplog.records if "is published" in record.getMessage()] == [
        f"Task shop.send {fast}",
        f"Task shop.send, from now on, {slow}a receiver of the signal before_task_publish is connected",
        f"Task shop.send, from now on, {fast}",
    ]


SIGNALLED = {name: case for name, case in CASES.items() if case.way == "template"}
COMPRESSED = [case for name, case in CASES.items() if name.startswith("compression")]


class Listener:
    """Keeps what the publish signals say; a receiver of its own may change the message."""

    def __init__(self, change: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.heard: list[Any] = []
        self.change = change

    def __enter__(self) -> Listener:
        signals.before_task_publish.connect(self.before, sender="shop.send")
        signals.after_task_publish.connect(self.after, sender="shop.send")
        return self

    def __exit__(self, *exc: object) -> None:
        signals.before_task_publish.disconnect(self.before, sender="shop.send")
        signals.after_task_publish.disconnect(self.after, sender="shop.send")

    def before(self, signal: Any = None, **named: Any) -> None:
        self.heard.append(("before", repr(sorted(named.items()))))
        if self.change is not None:
            self.change(named)

    def after(self, signal: Any = None, **named: Any) -> None:
        self.heard.append(("after", repr(sorted(named.items()))))


def check_signalled(case: Case, url: str, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    app = make_app(url, **case.conf)
    task = make_task(app, case)
    task_id = new_id()
    with publishing(app) as publisher, Listener(change) as listener:
        function = publisher.prepare(task)
        assert function.way == "collect", function.reason
        # kombu puts a header into a compressed message, which receivers of after_task_publish see.
        assert function.calls_receivers == (case not in COMPRESSED)
        publisher.declare()
        send_as_celery(app, task, task_id)
        [theirs] = wait_until(lambda: take_all(url, case.queue))
        heard, listener.heard = listener.heard, []
        send(publisher, function, task_id)
        [ours] = take_all(url, case.queue)
    assert [name for name, _ in heard] == ["before", "after"]
    assert listener.heard == heard
    assert_same(comparable(ours), comparable(theirs))


@pytest.mark.parametrize("case", SIGNALLED.values(), ids=SIGNALLED.keys())
def test_receivers_hear_and_messages_say_what_apply_asyncs_do(case: Case, broker_url: str) -> None:
    check_signalled(case, broker_url)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a new header": lambda named: named["headers"].update(traceparent="00-é"),
    "a header gone": lambda named: named["headers"].pop("origin"),
    "a header equal but for its type": lambda named: named["headers"].update(retries=False),
    "inside of a header": lambda named: named["headers"]["stamps"].update(a=1),
    "the headers' order": lambda named: named["headers"].update(lang=named["headers"].pop("lang")),
    "a property": lambda named: named["properties"].update(priority=3),
    "the argument": lambda named: named["body"][0][0].update(__value__="{}"),
    "keyword arguments": lambda named: named["body"][1].update(a=1),
    "callbacks": lambda named: named["body"][2].update(chain=[]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_a_receiver_changes_is_in_the_message(
    change: Callable[[dict[str, Any]], None], broker_url: str
) -> None:
    check_signalled(Case("collect"), broker_url, change)


def test_signals_with_task_sent_events(broker_url: str) -> None:
    """The events are the same whether the signals have receivers or not."""
    app = make_app(broker_url, task_send_sent_event=True)
    task = make_task(app, Case("collect"))
    with publishing(app) as publisher:
        quiet = publisher.prepare(task).sent_event
        with Listener():
            publisher.flush()
            function = publisher.prepare(task)
            assert function.calls_receivers
            _, [event] = function.collect("an id", VALUE, ARGSREPR)
    assert quiet is not None
    assert event == {**quiet, "uuid": "an id", "root_id": "an id", "args": ARGSREPR}


def test_deprecated_signal_goes_through_celery(redis_url: str) -> None:
    app = make_app(redis_url)
    heard = []

    def receiver(task_id: str = "", **_: Any) -> None:
        heard.append(task_id)

    signals.task_sent.connect(receiver)
    try:
        with publishing(app) as publisher:
            function = publisher.prepare(make_task(app, Case("collect")))
            assert (function.way, function.calls_receivers) == ("collect", False)
            task_id = new_id()
            send(publisher, function, task_id)
    finally:
        signals.task_sent.disconnect(receiver)
    assert heard == [task_id]


def test_patched_celery_runs_for_each_message(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentry patches like this: functools.wraps, and headers of its own."""
    original = Task.apply_async

    @functools.wraps(original)
    def apply_async(self: Any, *args: Any, **options: Any) -> Any:
        headers = {**(options.pop("headers", None) or {}), "sentry-trace": options["task_id"]}
        return original(self, *args, headers=headers, **options)

    app = make_app(broker_url)
    task = make_task(app, Case("collect"))
    monkeypatch.setattr(Task, "apply_async", apply_async)
    with publishing(app) as publisher:
        function = publisher.prepare(task)
        assert (function.way, "patched" in function.reason) == ("collect", True)
        task_id = new_id()
        send(publisher, function, task_id)
        assert [m["headers"]["sentry-trace"] for m in take_all(broker_url, "celery")] == [task_id]


class NotingBackend(DisabledBackend):
    noted: ClassVar[list[str]] = []

    def on_task_call(self, producer: Any, task_id: str) -> None:
        self.noted.append(task_id)


def test_result_backend_of_ones_own_notes_each_task(broker_url: str) -> None:
    app = make_app(broker_url, result_backend=f"{__name__}:NotingBackend")
    app._local.backend = NotingBackend(app=app)  # type: ignore[attr-defined]
    with publishing(app) as publisher:
        function = publisher.prepare(make_task(app, Case("collect")))
        assert (function.way, "on_task_call" in function.reason) == ("collect", True)
        NotingBackend.noted.clear()
        task_id = new_id()
        send(publisher, function, task_id)
        assert NotingBackend.noted == [task_id]


class DroppingTask(Task):  # type: ignore[type-arg, unused-ignore]
    def apply_async(self, *args: Any, **options: Any) -> Any:
        return None


def test_task_that_drops_its_message_is_told_once(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(redis_url)
    with publishing(app) as publisher:
        function = publisher.prepare(make_task(app, Case("apply_async", task={"base": DroppingTask})))
        assert function.in_words == (
            "sends each message by itself, slowest because each is confirmed before the next one: "
            "DroppingTask overrides apply_async"
        )
        caplog.clear()  # what such a task may lose is said before
        send(publisher, function, new_id(), new_id())
        assert take_all(redis_url) == []
    assert [r.message[:15] for r in caplog.records if r.levelname == "WARNING"] == ["Task shop.send:"]


def test_id_that_is_no_uuid_is_sent_all_the_same(broker_url: str) -> None:
    with publishing(make_app(broker_url)) as publisher:
        send(publisher, publisher.prepare("shop.send"), 'short "é" id')
        [message] = take_all(broker_url, "celery")
        assert message["headers"]["id"] == message["headers"]["root_id"] == 'short "é" id'
