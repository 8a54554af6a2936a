"""The compiled part makes the same messages as Python, to the byte (promises 3 and 10)."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests import messages as m
from tests._speedups.support import answer, needs_compiled
from tests.pipeline.test_assembler import USERS, on
from tests.pipeline.test_dispatcher import Producing
from walex_celery import Event, HandlerError, Lsn
from walex_celery._speedups import speedups
from walex_celery.broker.amqp.frames import FramesTemplate, body_frame, frame_bodies
from walex_celery.broker.redis.envelope import EnvelopeTemplate, base64_body
from walex_celery.broker.redis.resp import packed, packed_plainly
from walex_celery.broker.templates import sentinels
from walex_celery.broker.templates.body import KEPT, Body, _json_encoder
from walex_celery.broker.templates.wire import Address
from walex_celery.pipeline import dispatcher
from walex_celery.pipeline.task_messages import make_tasks, make_tasks_plainly
from walex_celery.postgres.timeline import Switch, Timelines

pytestmark = needs_compiled

TASK_ID = "00000000-16b3-8748-8000-000080000005"
TEXTS = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [b"", b'{"a":"b\\n"}', "é\x7f😀".encode(), b"\xed\xa0\x80", b"\xf0\x80\x80\x80", b"\x1f\t"]
    ),
)
OPENING, CLOSING = b'[[{"__type__": "walex.event", "__value__": ', b"}], {}, {}]"


def bodies(kind: str) -> tuple[Any, Any]:
    """A compiled body, and a plain one."""
    if kind == "base64":
        finish, frame = base64_body(), None
    else:
        made = frame_bodies()
        finish, frame = made._finish, made._frame
    plain = Body(_json_encoder(OPENING, CLOSING), finish)
    return speedups.json_body(plain, OPENING, CLOSING, KEPT, frame), plain


@pytest.mark.parametrize("kind", ["base64", "frame"])
@given(values=st.lists(TEXTS, min_size=1, max_size=3), heads=st.lists(TEXTS, min_size=1, max_size=3))
def test_any_body(kind: str, values: list[bytes], heads: list[bytes]) -> None:
    compiled, plain = bodies(kind)
    for head in heads:
        for value in values:
            rendered = answer(compiled.render, head + value, head)
            expected = answer(plain.render, head + value, head)
            if isinstance(expected, bytes):
                assert rendered == expected
            else:  # a text that is not UTF-8: they complain of different parts of it
                assert rendered[0] is expected[0] is UnicodeDecodeError


def test_the_body_of_the_same_value_is_the_same_object() -> None:
    compiled, _ = bodies("base64")
    value = b'{"a": 1}'

    assert compiled.render(value, b"") is compiled.render(value, b"")
    assert compiled.render(bytes(bytearray(value)), b"") == compiled.render(value, b"")


def test_the_starts_that_are_kept_are_bounded() -> None:
    _, plain = bodies("base64")
    body = speedups.json_body(plain, OPENING, CLOSING, 3, None)

    for number in range(10):
        head = b"head %d" % number
        assert json.loads(body.render(head + b" rest", head))


ARGSREPRS = st.text(max_size=60) | st.just("<Event insert users id=42 lsn=0/16B3748>")
IDS = st.just(TASK_ID) | st.text(max_size=40) | st.just("x" * len(TASK_ID)) | st.just('"' * len(TASK_ID))


def envelope() -> EnvelopeTemplate:
    quoted = json.dumps(sentinels.TASK_ID).encode()
    body, _ = bodies("base64")
    return EnvelopeTemplate(
        Address("task", "", "celery", 0), body,
        b'{"body": ', b', "id": %b, "root": %b, "argsrepr": ' % (quoted, quoted),
        b', "correlation_id": %b, "delivery_tag": ' % quoted, b"}}",
    )  # fmt: skip


@given(task_id=IDS, argsrepr=ARGSREPRS, value=TEXTS)
def test_any_envelope(task_id: str, argsrepr: str, value: bytes) -> None:
    template = envelope()
    compiled = answer(template.fill, task_id, value, argsrepr)
    plain = answer(template.fill_plainly, task_id, value, argsrepr)

    assert compiled[:2] == plain[:2]
    if isinstance(plain[0], Address):
        tag = re.compile(rb'"delivery_tag": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"')
        assert tag.sub(b"", compiled[2]) == tag.sub(b"", plain[2])
        assert compiled[3] == plain[3] == b""


def test_no_two_envelopes_have_the_same_tag() -> None:
    templates = [envelope(), envelope()]
    tags = {
        json.loads(template.fill(TASK_ID, b"{}", "")[2].replace(b"}}", b"}", 1))["delivery_tag"]  # type: ignore[index]
        for template in templates
        for _ in range(1000)
    }

    assert len(tags) == 2000


@given(task_id=IDS, argsrepr=ARGSREPRS, value=TEXTS)
def test_any_frames(task_id: str, argsrepr: str, value: bytes) -> None:
    body, _ = bodies("frame")
    identifier = sentinels.TASK_ID.encode()
    before = (
        b"\xf8\x00\x10application/json\x05utf-8\x00\x00\x00\xff" + identifier + b"argsrepr S\x00\x00\x00\x10"
    )
    message: Any = type("Captured", (), {"exchange": "", "routing_key": "celery"})
    template = FramesTemplate(
        Address("task", "", "celery", 0), body, message, 25, (before, b"after" + identifier)
    )

    assert answer(template.fill, task_id, value, argsrepr) == answer(
        template.fill_plainly, task_id, value, argsrepr
    )


@given(
    st.lists(
        st.lists(st.binary(max_size=20) | st.text(max_size=5) | st.integers(), max_size=5).map(tuple),
        max_size=4,
    )
)
def test_any_commands(commands: list[tuple[Any, ...]]) -> None:
    assert answer(packed, commands) == answer(packed_plainly, commands)


def test_a_frame_ends_as_python_s_does() -> None:
    body, _ = bodies("frame")

    assert body.render(b"{}", b"") == body_frame(OPENING + b'"{}"' + CLOSING)


# Tasks of events.


@pytest.fixture
def app(redis_url: str) -> Celery:
    return Celery("speedups", broker=redis_url, set_as_current=False)


def test_the_handler_answers_for_an_event_that_no_task_can_be_made_of(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number is neither a number nor UTF-8."""

    @app.task(name="shop.first")
    def task(event: Event) -> None: ...

    handler = replace(on("on_event", "users"), functions=(task,), batch=None)
    for half in (make_tasks, make_tasks_plainly):
        monkeypatch.setattr(dispatcher, "make_tasks", half)
        both = Producing(app, [handler])
        with pytest.raises(HandlerError, match=r"shop\.first"):
            both.dispatch(m.insert(USERS, b"1", b"a"), m.insert(USERS, b"\xff", b"b"))
        both.publisher.close()


def fickle(task_id: str, value: bytes, argsrepr: str, head: bytes = b"") -> Any:
    """A template that fails, makes nothing or makes a message, as the value says."""
    if value == b"raises":
        raise ValueError(value)
    return None if value == b"none" else steady(task_id, value, argsrepr)


def steady(task_id: str, value: bytes, argsrepr: str, head: bytes = b"") -> Any:
    return "lane", task_id, value, argsrepr.encode()


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"a", b"bc", b"raises", b"none"]),
            st.sampled_from(
                ["none", "unresolved", "template", "two", "collect", "sent event", "second collects"]
            ),
        ),
        max_size=5,
    ),
    st.integers(0, 5),
)
def test_tasks_are_made_up_to_the_first_event_that_needs_more(
    events: list[tuple[bytes, str]], first: int
) -> None:
    def target(template: Any, sent_event: Any = None) -> Any:
        return SimpleNamespace(template=template, sent_event=sent_event), 7, SimpleNamespace(count=0)

    def outcome(half: Any) -> Any:
        routes = [
            SimpleNamespace(
                tally=SimpleNamespace(accepted=0),
                targets={
                    "none": (),
                    "unresolved": None,
                    "template": (target(fickle),),
                    "two": (target(steady), target(fickle)),
                    "collect": (target(None),),
                    "sent event": (target(fickle, {}),),
                    "second collects": (target(fickle), target(None)),
                }[kind],
            )
            for _, kind in events
        ]
        routed = [
            (SimpleNamespace(index=index, for_task=lambda value=value: (value, b"", "repr")), route)
            for index, ((value, _), route) in enumerate(zip(events, routes, strict=True))
        ]
        made = half(routed, min(first, len(events)), 0x16B3748, 5)
        counts = [
            (route.tally.accepted, [target[2].count for target in route.targets or ()]) for route in routes
        ]
        return made, counts

    compiled = outcome(make_tasks)
    assert compiled == outcome(make_tasks_plainly)
    (at, items, size), _ = compiled
    assert at == len(events) or events[at] not in [(value, "template") for value in (b"a", b"bc")]
    assert size == sum(len(item[2]) + len(item[3]) for item in items)


@pytest.mark.parametrize("timeline", [1, 3])
def test_the_same_tasks_of_a_chunk(app: Celery, timeline: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, bodies, argsreprs and what is counted; the second task has a receiver, and no template."""

    def task(event: Event) -> None: ...

    first, second = (app.task(name=f"shop.{name}")(task) for name in ("first", "second"))
    listen: Any = lambda **_: None  # noqa: E731 - a receiver is compared by identity
    signals.before_task_publish.connect(listen, sender="shop.second")
    try:
        outcomes = []
        for half in (make_tasks, make_tasks_plainly):
            monkeypatch.setattr(dispatcher, "make_tasks", half)
            handlers = [
                replace(on("on_event", "users"), functions=(first, second), batch=None),
                replace(on("on_insert", "users"), functions=(first,), batch=None),
            ]
            both = Producing(app, handlers)
            both.dispatcher.follow(
                Timelines(timeline, (Switch(1, Lsn(m.COMMIT_LSN - 1)),) if timeline > 1 else ())
            )
            sent = both.dispatch(
                *(m.insert(USERS, b"%d" % number, "é".encode()) for number in range(5)), m.truncate(USERS)
            )
            statistics = both.dispatcher.statistics
            counted = (
                statistics.tasks,
                statistics.events,
                both.dispatcher.statistics.task("shop.first").count,
            )
            outcomes.append(([(task.task, task.id, task.argsrepr, task.body) for task in sent], counted))
            both.publisher.close()
    finally:
        signals.before_task_publish.disconnect(listen, sender="shop.second")
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][1][0] == 12
