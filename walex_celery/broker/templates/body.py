"""The body of a task message as a function of the event's JSON text."""

from __future__ import annotations

import json
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Any

import msgspec
from kombu.compression import compress
from kombu.serialization import dumps

from walex_celery._speedups import speedups
from walex_celery._speedups.contract import Renders as Renders
from walex_celery.broker.templates import sentinels
from walex_celery.broker.templates.collect import Message

#: From an event's JSON text, and the start of it that many events share, to the two parts of a message's body: one
#: that is the same object for the same start, and the rest.
Encode = Callable[[bytes, bytes], tuple[bytes, bytes]]
#: From the two parts of a body to what the transport makes of it (base64, a frame).
Finish = Callable[[bytes, bytes], bytes]

#: Starts of events whose encoding is kept: one for each table and type of event.
KEPT = 1000


def wire_argument(value: bytes) -> dict[str, str]:
    """Return the task's one argument: kombu's tagged form of an Event, whose value is JSON text."""
    return {"__type__": "walex.event", "__value__": value.decode()}


class Body:
    """Renders bodies; the last one is kept, because the functions of one event share it.

    What a table's events begin with (their source) is encoded once: with ten columns it is half of the text.
    """

    __slots__ = ("_encode", "_finish", "_rendered", "_value")

    def __init__(self, encode: Encode, finish: Finish) -> None:
        self._encode = encode
        self._finish = finish
        self._value: bytes | None = None
        self._rendered = b""

    def render(self, value: bytes, head: bytes = b"") -> bytes:
        """Return the finished body of ``value``, which begins with ``head``; the same object for the same ``value``."""
        if value is not self._value:
            start, rest = self._encode(value, head)
            self._rendered = self._finish(start, rest)
            self._value = value
        return self._rendered


class Bodies:
    """The bodies of one writer: functions whose messages have the same form share one.

    Args:
        finish: makes what the transport wants of a body.
        frame: of a frame, what stands before its size; ``None`` if *finish* makes base64.
    """

    def __init__(self, finish: Finish, frame: bytes | None = None) -> None:
        self._bodies: dict[tuple[Any, ...], Renders] = {}
        self._finish = finish
        self._frame = frame

    def of(self, message: Message) -> Renders:
        """Return the body of a message that was captured with the sentinel value."""
        key = (bytes_of(message.body), message.content_type, message.serializer, message.compression)
        if key not in self._bodies:
            self._bodies[key] = self._make(message)
        return self._bodies[key]

    def _make(self, message: Message) -> Renders:
        pieces = _json_pieces(message)
        if pieces is None:
            return Body(_kombu_encoder(message), self._finish)
        return speedups.json_body(Body(_json_encoder(*pieces), self._finish), *pieces, KEPT, self._frame)


def bytes_of(body: str | bytes) -> bytes:
    """Return a body as bytes; kombu's JSON is text, its compressed bodies are not."""
    return body.encode() if isinstance(body, str) else bytes(body)


_encode = msgspec.json.Encoder().encode


def ascii_string(text: str) -> bytes:
    """Return *text* as ``json.dumps`` writes it.

    msgspec takes a fifth of the time, and writes the same but for DEL and what is not ASCII, which it leaves alone.
    """
    if text.isascii() and "\x7f" not in text:
        return _encode(text)
    return encode_basestring_ascii(text).encode()


def _json_pieces(message: Message) -> tuple[bytes, bytes] | None:
    """Return a captured JSON body split at the value, or None where it can't be split.

    That kombu's "json" is still ``json.dumps`` is proved by the template's second capture.
    """
    if message.compression or message.content_type != "application/json":
        return None
    pieces = bytes_of(message.body).decode().split(json.dumps(sentinels.VALUE.decode()))
    if len(pieces) != 2:
        return None
    opening, closing = (piece.encode() for piece in pieces)
    return opening, closing


def _json_encoder(opening: bytes, closing: bytes) -> Encode:
    """Return an encoder that puts the value between the two pieces of a JSON body."""
    starts: dict[bytes, bytes] = {}

    def encode(value: bytes, head: bytes) -> tuple[bytes, bytes]:
        start = starts.get(head)
        if start is None:
            if len(starts) >= KEPT:
                starts.clear()
            start = starts[head] = opening + ascii_string(head.decode())[:-1]
        return start, ascii_string(value[len(head) :].decode())[1:] + closing

    return encode


def _kombu_encoder(message: Message) -> Encode:
    """Return an encoder that runs kombu's serializer and compressor for each body."""
    _, kwargs, embed = message.raw_body
    serializer, compression = message.serializer, message.compression

    def encode(value: bytes, _: bytes) -> tuple[bytes, bytes]:
        body: str | bytes = dumps(((wire_argument(value),), kwargs, embed), serializer=serializer)[2]
        if compression:
            body = compress(body, compression)[0]
        return b"", bytes_of(body)

    return encode
