"""What stands in a broker's queue, read without a worker."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple, cast

from kombu import Connection

from walex_celery import Event


class Queued(NamedTuple):
    """A task in a queue."""

    id: str
    name: str
    event: Event


def drain(broker_url: str, queue: str) -> list[Queued]:
    """All tasks of *queue*, in the order a worker would get them; the queue is empty afterwards."""
    if broker_url.startswith("redis"):
        return [_queued(json.loads(raw)) for raw in _drain_redis(broker_url, queue)]
    found = []
    with Connection(broker_url) as connection, connection.channel() as opened:
        channel = cast(Any, opened)  # what a channel can do depends on the transport
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            found.append(_task(message.headers, json.loads(message.body)))
    return found


def _drain_redis(broker_url: str, queue: str) -> list[bytes]:
    with Connection(broker_url) as connection, connection.channel() as channel:
        client = cast(Any, channel).client
        # In one transaction: what is pushed in between would be deleted unread.
        with client.pipeline(transaction=True) as pipe:
            found: list[bytes] = pipe.lrange(queue, 0, -1).delete(queue).execute()[0]
        return found[::-1]


def _queued(envelope: dict[str, Any]) -> Queued:
    return _task(envelope["headers"], json.loads(base64.b64decode(envelope["body"])))


def _task(headers: dict[str, Any], body: list[Any]) -> Queued:
    ((argument,), _, _) = body
    assert argument["__type__"] == "walex.event"
    return Queued(headers["id"], headers["task"], Event.from_json(argument["__value__"]))
