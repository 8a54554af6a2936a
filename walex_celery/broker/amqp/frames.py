"""AMQP 0-9-1 frames of a publish (specification 4.2.3 and 4.2.6), and the template that fills them.

Tables and properties are serialized by py-amqp; here is only what depends on id, argsrepr and body.
"""

from __future__ import annotations

from struct import Struct, unpack_from
from typing import Any

from amqp.basic_message import Message as AmqpMessage
from amqp.serialization import dumps

from walex_celery._speedups import speedups
from walex_celery.broker.templates import sentinels
from walex_celery.broker.templates.body import Bodies, Renders, bytes_of
from walex_celery.broker.templates.collect import Message
from walex_celery.broker.templates.wire import Address, Item, Template

#: All publishes go through channel 1, which the writer opens first on each connection.
CHANNEL = 1
FRAME_END = b"\xce"
FRAME = Struct(">BHI")  # type, channel, size of the payload
METHOD, HEADER, BODY = 1, 2, 3
CONTENT_HEADER = Struct(">HHQ")  # class id, weight, size of the body
BASIC, PUBLISH = 60, 40
MANDATORY = True  # an unroutable message comes back instead of being confirmed and lost

_FRAME_AND_CONTENT_HEADER = Struct(">BHIHHQ")
_U32 = Struct(">I")


def body_frame(body: bytes) -> bytes:
    """Return a body as one frame; :func:`split_body` cuts it where the broker's frame_max is smaller."""
    return FRAME.pack(BODY, CHANNEL, len(body)) + body + FRAME_END


def frame_bodies() -> Bodies:
    """Return the bodies of a writer of frames."""
    return Bodies(lambda start, rest: body_frame(start + rest), FRAME.pack(BODY, CHANNEL, 0)[:3])


def split_body(frame: bytes, frame_max: int) -> list[bytes]:
    """Return a body's frame as frames of at most ``frame_max`` bytes; none for an empty body."""
    size = frame_max - 8  # 7 bytes of frame header, 1 of frame end
    start, end = FRAME.size, len(frame) - 1
    return [body_frame(frame[at : min(at + size, end)]) for at in range(start, end, size)]


def properties_of(message: Message) -> bytes:
    """Return the property flags and property list of a message, serialized by py-amqp."""
    amqp_message: Any = AmqpMessage(
        message.body,
        priority=message.priority,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        application_headers=message.headers,
        **message.properties,
    )
    serialized: bytes = amqp_message._serialize_properties()
    return serialized


def method_frame(exchange: str, routing_key: str) -> bytes:
    """Return the frame of a mandatory Basic.Publish."""
    arguments: Any = dumps("Bssbb", (0, exchange, routing_key, MANDATORY, False))
    payload = _U32.pack(BASIC << 16 | PUBLISH) + (
        arguments if isinstance(arguments, bytes) else arguments.encode()
    )
    return FRAME.pack(METHOD, CHANNEL, len(payload)) + payload + FRAME_END


def encode(address: Address, message: Message) -> Item:
    """Return the frames of a message."""
    properties = properties_of(message)
    frame = body_frame(bytes_of(message.body))
    head = (
        method_frame(message.exchange, message.routing_key)
        + _FRAME_AND_CONTENT_HEADER.pack(
            HEADER, CHANNEL, CONTENT_HEADER.size + len(properties), BASIC, 0, len(frame) - 8
        )
        + properties
        + FRAME_END
    )
    return address, message.task_id, head, frame


def size_bytes(item: Item) -> int:
    """Return the size of a message's body, which is what the broker's limit is about."""
    return len(item[3]) - FRAME.size - len(FRAME_END)


def decode(item: Item) -> Any:
    """Return py-amqp's message of what was made by :func:`encode` or a template."""
    head = item[2]
    (method_size,) = unpack_from(">I", head, 3)
    at = FRAME.size + method_size + len(FRAME_END) + FRAME.size
    message: Any = AmqpMessage(item[3][FRAME.size : -len(FRAME_END)])
    message._load_properties(BASIC, head, at + CONTENT_HEADER.size)
    return message


class FramesTemplate:
    """Fills id, argsrepr and body into the frames of a captured message."""

    __slots__ = (
        "_address",
        "_after_argsrepr",
        "_before_argsrepr",
        "_body",
        "_head",
        "_id_size",
        "_method",
        "_size",
        "_table_size",
        "fill",
    )  # fmt: skip

    def __init__(
        self,
        address: Address,
        body: Renders,
        message: Message,
        table_at: int,
        pieces: tuple[bytes, bytes],
    ) -> None:
        before, after = pieces
        task_id = sentinels.TASK_ID.encode()
        argsrepr_size = len(sentinels.ARGSREPR)
        self._address = address
        self._body = body.render
        self._id_size = len(sentinels.TASK_ID)
        self._method = method_frame(message.exchange, message.routing_key)
        self._head = before[:table_at]  # flags, content type, content encoding
        (table_size,) = unpack_from(">I", before, table_at)
        self._table_size = table_size - argsrepr_size
        # Without the argsrepr's own size, four bytes just before it.
        self._before_argsrepr = before[table_at + 4 : -4].split(task_id)
        self._after_argsrepr = after.split(task_id)
        self._size = CONTENT_HEADER.size + len(before) + len(after)
        #: Makes the frames of one task.
        self.fill: Template = speedups.frames(
            self.fill_plainly,
            address,
            body,
            self._method + FRAME.pack(HEADER, CHANNEL, 0)[:3],
            CONTENT_HEADER.pack(BASIC, 0, 0)[:4],
            self._head,
            self._before_argsrepr,
            self._after_argsrepr,
            self._table_size,
            self._size,
            self._id_size,
        )

    @classmethod
    def of(cls, address: Address, message: Message, bodies: Bodies) -> FramesTemplate | None:
        """Return the template of a message captured with the sentinels, or None where it has no such form."""
        pieces = properties_of(message).split(sentinels.ARGSREPR.encode())
        if len(pieces) != 2 or not message.content_type or not message.content_encoding:
            return None
        before, after = pieces
        table_at = 2  # the flags; then two short strings: a byte of length and the text
        for _ in ("content type", "content encoding"):
            table_at += 1 + before[table_at]
        return cls(address, bodies.of(message), message, table_at, (before, after))

    def fill_plainly(self, task_id: str, value: bytes, argsrepr: str, head: bytes = b"") -> Item | None:
        """Return the frames of one task, or None for an id that is not as long as a UUID."""
        quoted = argsrepr.encode("utf-8", "surrogatepass")  # as py-amqp does
        identifier = task_id.encode()
        if len(identifier) != self._id_size:  # the lengths before these holes are written once
            return None
        frame = self._body(value, head)
        size = len(quoted)
        head = b"".join((
            self._method,
            _FRAME_AND_CONTENT_HEADER.pack(HEADER, CHANNEL, self._size + size, BASIC, 0, len(frame) - 8),
            self._head,
            _U32.pack(self._table_size + size),
            identifier.join(self._before_argsrepr),
            _U32.pack(size),
            quoted,
            identifier.join(self._after_argsrepr),
            FRAME_END,
        ))  # fmt: skip
        return self._address, task_id, head, frame
