"""The template of a virtual transport's message (Redis): one JSON text, split at its holes."""

from __future__ import annotations

import binascii
import itertools
import uuid
from collections.abc import Iterator

import msgspec
from kombu.utils.json import dumps, loads

from walex_celery._speedups import speedups
from walex_celery.broker.templates import sentinels
from walex_celery.broker.templates.body import KEPT, Bodies, Finish, Renders, ascii_string
from walex_celery.broker.templates.collect import Message
from walex_celery.broker.templates.wire import Address, Item, Template


def delivery_tags() -> Iterator[bytes]:
    """Return endless unique tags in the form of a UUID4: 0.15 us each instead of ``uuid4``'s 1.5."""
    form = b'"%b%%012x"' % str(uuid.uuid4())[:24].encode()
    return map(form.__mod__, itertools.count())


_encode = msgspec.json.Encoder().encode


class EnvelopeTemplate:
    """Fills body, task id, argsrepr and delivery tag into a captured envelope."""

    __slots__ = (
        "_address",
        "_after_argsrepr",
        "_before_argsrepr",
        "_body",
        "_end",
        "_start",
        "_tags",
        "fill",
    )

    def __init__(
        self,
        address: Address,
        body: Renders,
        start: bytes,
        before: bytes,
        after: bytes,
        end: bytes,
    ) -> None:
        task_id = dumps(sentinels.TASK_ID).encode()
        self._address = address
        self._body = body.render
        self._start = start
        self._before_argsrepr = before.split(task_id)
        self._after_argsrepr = after.split(task_id)
        self._end = end
        self._tags = delivery_tags()
        #: Makes the envelope of one task.
        self.fill: Template = speedups.envelope(
            self.fill_plainly,
            address,
            body,
            start,
            self._before_argsrepr,
            self._after_argsrepr,
            end,
            len(sentinels.TASK_ID),
        )

    @classmethod
    def of(cls, message: Message, item: Item, bodies: Bodies) -> EnvelopeTemplate | None:
        """Return the template of a message captured with the sentinels, or None where it has no such form."""
        rest = item[2]
        envelope = loads(rest)
        if envelope["properties"].get("body_encoding") != "base64":
            return None
        pieces = []
        # The holes in the order in which kombu's channel puts them.
        for hole in (envelope["body"], sentinels.ARGSREPR, envelope["properties"]["delivery_tag"]):
            before, *afters = rest.split(dumps(hole).encode())
            if len(afters) != 1:
                return None
            pieces.append(before)
            rest = afters[0]
        start, before, after = pieces
        return cls(item[0], bodies.of(message), start, before, after, rest)

    def fill_plainly(self, task_id: str, value: bytes, argsrepr: str, head: bytes = b"") -> Item:
        """Return the envelope of one task."""
        quoted_id = _encode(task_id)  # a UUID: what msgspec writes is what json.dumps does
        envelope = b"".join((
            self._start,
            self._body(value, head),
            quoted_id.join(self._before_argsrepr),
            ascii_string(argsrepr),
            quoted_id.join(self._after_argsrepr),
            next(self._tags),
            self._end,
        ))  # fmt: skip
        return self._address, task_id, envelope, b""


def base64_body() -> Finish:
    """Return what makes a body a JSON string of its base64; that of the start, which many bodies share, is kept."""
    starts: dict[bytes, tuple[bytes, bytes]] = {}

    def finish(start: bytes, rest: bytes) -> bytes:
        kept = starts.get(start)
        if kept is None:
            if len(starts) >= KEPT:
                starts.clear()
            # Base64 takes three bytes at a time; what is left over belongs to the rest.
            cut = len(start) - len(start) % 3
            kept = starts[start] = binascii.b2a_base64(start[:cut], newline=False), start[cut:]
        encoded, left_over = kept
        return b'"%b%b"' % (encoded, binascii.b2a_base64(left_over + rest, newline=False))

    return finish
