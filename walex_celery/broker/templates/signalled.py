"""Publish signals without Celery around them: receivers are called as Celery calls them, and the template is filled.

What a receiver of ``before_task_publish`` changes in a message is honoured: such a message is made by kombu. One that
all of them left alone, as after_task_publish's receivers and most others do, is the template's (20 us instead of 90).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from operator import is_
from typing import TYPE_CHECKING, Any

from celery import signals

from walex_celery.broker.templates import reasons, sentinels
from walex_celery.broker.templates.argument import with_event
from walex_celery.broker.templates.body import wire_argument
from walex_celery.broker.templates.collect import CollectingProducer, Message
from walex_celery.broker.templates.wire import Item, Template

if TYPE_CHECKING:
    from walex_celery.broker.driver import Encoder

_Containers = (list, dict, set, tuple)

#: Sends one task through Celery: (task id, JSON text, argsrepr).
Send = Callable[[str, bytes, str], list[Message]]


@contextmanager
def muted_signals() -> Iterator[None]:
    """Keep the publish signals from hearing of the sentinels."""
    muted: list[Any] = [getattr(signals, name) for name in reasons.SIGNALS]
    receivers = [signal.receivers for signal in muted]
    for signal in muted:
        signal.receivers = []
    try:
        yield
    finally:
        for signal, kept in zip(muted, receivers, strict=True):
            signal.receivers = kept


class _Heard:
    """What the signals' receivers, and kombu's ``publish``, are called with while one message is sent."""

    def __init__(self, change: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}
        self.publish: dict[str, Any] = {}
        self._change = change

    @contextmanager
    def listening(self, producer: Any) -> Iterator[None]:
        """Listen, instead of all other receivers."""
        publish = producer.publish

        def spy(body: Any, **options: Any) -> Any:
            self.publish = options
            return publish(body, **options)

        with muted_signals():
            signals.before_task_publish.connect(self._on_before, weak=False)
            signals.after_task_publish.connect(self._on_after, weak=False)
            producer.publish = spy
            try:
                yield
            finally:
                del producer.publish

    def _on_before(self, signal: Any = None, **named: Any) -> None:
        self.before = _snapshot(named)
        if self._change is not None:
            self._change(named)

    def _on_after(self, signal: Any = None, **named: Any) -> None:
        self.after = _snapshot(named)

    def summary(self) -> str:
        """What receivers were called with, including the types of values: 1 is not True."""
        return repr((sorted(self.before.items()), sorted(self.after.items())))


def _snapshot(named: Mapping[str, Any]) -> dict[str, Any]:
    # Queues are not copied: receivers don't change those, and kombu's copy is not equal.
    return {
        name: list(value) if name == "declare" and value else deepcopy(value) for name, value in named.items()
    }


class _Fields:
    """A captured mapping with holes for id and argsrepr: fresh for each message, and compared with what it became."""

    __slots__ = ("_fixed", "_ids", "_names", "_nested", "_reprs")

    def __init__(self, captured: dict[str, Any]) -> None:
        self._fixed = captured
        self._names = list(captured)
        self._ids = tuple(name for name, value in captured.items() if value == sentinels.TASK_ID)
        self._reprs = tuple(name for name, value in captured.items() if value == sentinels.ARGSREPR)
        self._nested = tuple(
            (name, value) for name, value in captured.items() if isinstance(value, list | dict)
        )

    @property
    def is_flat_enough(self) -> bool:
        """Whether what is nested in it is nested no deeper."""
        inner = [
            part
            for _, value in self._nested
            for part in (value.values() if isinstance(value, dict) else value)
        ]
        return not any(isinstance(part, _Containers) for part in inner)

    def fill(self, task_id: str, argsrepr: str) -> dict[str, Any]:
        """A mapping that a receiver may change."""
        fields = self._fixed.copy()
        for name in self._ids:
            fields[name] = task_id
        for name in self._reprs:
            fields[name] = argsrepr
        for name, value in self._nested:
            fields[name] = value.copy()
        return fields

    def is_untouched(self, fields: dict[str, Any], given: dict[str, Any]) -> bool:
        """Whether *fields*, of which *given* is a copy made before the receivers got it, is unchanged.

        By identity: 1 equals True, and is another word in JSON.
        """
        if list(fields) != self._names or not all(map(is_, fields.values(), given.values())):
            return False
        return all(_same(fields[name], value) for name, value in self._nested)


def _same(inner: Any, was: Any) -> bool:
    if len(inner) != len(was) or not all(map(is_, inner, was)):
        return False
    return not isinstance(was, dict) or all(map(is_, inner.values(), was.values()))


class Signalled:
    """Calls the receivers of a task's publish signals, and makes its messages."""

    def __init__(
        self, template: Template, encoder: Encoder, producer: CollectingProducer, heard: _Heard
    ) -> None:
        self._template = template
        self._encoder = encoder
        self._producer: Any = producer
        before = heard.before
        self._name = before["sender"]
        self._headers = _Fields(before["headers"])
        self._properties = _Fields(before["properties"])
        self._embed = _Fields(before["body"][2])
        self._declare = before["declare"]
        self._retry_policy = before["retry_policy"]
        self._place = {name: before[name] for name in ("exchange", "routing_key")}
        own = ("headers", "declare", "retry_policy", *before["properties"])
        self._publish = {name: value for name, value in heard.publish.items() if name not in own}

    @classmethod
    def of(
        cls, template: Template, encoder: Encoder, producer: CollectingProducer, send: Send
    ) -> Signalled | None:
        """Return an equivalent shortcut for *send*, or None if receivers or the broker would get something else."""
        captured = _Heard()
        with captured.listening(producer):
            send(sentinels.TASK_ID, sentinels.VALUE, sentinels.ARGSREPR)
        try:
            found = cls(template, encoder, producer, captured)
        except (KeyError, TypeError, IndexError):  # another protocol's body, another Celery's signals
            return None
        if not (
            found._headers.is_flat_enough and found._properties.is_flat_enough and found._embed.is_flat_enough
        ):
            return None
        proofs = (None, _change_header, _change_property, _change_body)
        return found if all(found._is_proved(send, change) for change in proofs) else None

    def _is_proved(self, send: Send, change: Callable[[dict[str, Any]], None] | None) -> bool:
        proof = (sentinels.PROOF_TASK_ID, sentinels.PROOF_VALUE, sentinels.PROOF_ARGSREPR)
        theirs, ours = _Heard(change), _Heard(change)
        with theirs.listening(self._producer):
            messages = send(*proof)
        with ours.listening(self._producer):
            item = self(*proof)
        if len(messages) != 1 or theirs.summary() != ours.summary():
            return False
        return self._encoder.same(item, self._encoder.encode(messages[0]))

    def __call__(self, task_id: str, value: bytes, argsrepr: str, head: bytes = b"") -> Item:
        """Call the receivers, and return the message of one task."""
        name = self._name
        headers = self._headers.fill(task_id, argsrepr)
        properties = self._properties.fill(task_id, argsrepr)
        embed = self._embed.fill(task_id, argsrepr)
        argument = wire_argument(value)
        kwargs: dict[str, Any] = {}
        body = ((argument,), kwargs, embed)
        declare = None if self._declare is None else list(self._declare)
        retry_policy = self._retry_policy.copy()
        given = headers.copy(), properties.copy(), embed.copy(), argument.copy()
        signals.before_task_publish.send(
            sender=name,
            body=body,
            declare=declare,
            headers=headers,
            properties=properties,
            retry_policy=retry_policy,
            **self._place,
        )
        item = None
        if (
            self._headers.is_untouched(headers, given[0])
            and self._properties.is_untouched(properties, given[1])
            and self._embed.is_untouched(embed, given[2])
            and _same(argument, given[3])
            and not kwargs
            and (declare is None or _same(declare, self._declare))
        ):
            item = self._template(task_id, value, argsrepr, head)
        if item is None:
            self._producer.publish(
                body,
                **self._publish,
                headers=headers,
                declare=declare,
                retry_policy=retry_policy,
                **properties,
            )
            [message] = self._producer.take(name, task_id)
            item = with_event(self._encoder.encode(message), message, value)
        signals.after_task_publish.send(sender=name, body=body, headers=headers, **self._place)
        return item


def _change_header(named: dict[str, Any]) -> None:
    named["headers"]["walex-proof"] = "é"
    named["headers"]["timelimit"][0] = 1


def _change_property(named: dict[str, Any]) -> None:
    named["properties"]["priority"] = 3


def _change_body(named: dict[str, Any]) -> None:
    named["body"][1]["walex-proof"] = 1
    named["body"][2]["chain"] = []
