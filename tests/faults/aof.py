"""What producers put into Valkey, read from its append-only file: evidence that no worker can take away."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from walex_celery import Event


class Pushed(NamedTuple):
    """A task that was enqueued.

    Attributes:
        id: of the task.
        lsn: of its event's transaction.
        place: of its event in the transaction, its index.
    """

    id: str
    lsn: int
    place: int


def pushed(folder: Path, queue: str) -> list[Pushed]:
    """All tasks that were ever enqueued into *queue*, in order; not those that a worker put back.

    Args:
        folder: of the server, whose file was never rewritten.
        queue: its name, which is its key.
    """
    found = []
    for command, key, *values in _written(folder):
        if command.upper() == b"LPUSH" and key == queue.encode():
            found += [_pushed(json.loads(value)) for value in values if b'"redelivered"' not in value]
    return found


def never_noted(folder: Path, queue: str) -> set[str]:
    """The ids of tasks that no worker noted as its own (kombu's hash ``unacked``) since they last came into *queue*."""
    found: set[str] = set()
    for command, key, *values in _written(folder):
        if key == queue.encode() and command.upper() in (b"LPUSH", b"RPUSH"):
            found |= {json.loads(value)["headers"]["id"] for value in values}
        elif command.upper() == b"HSET" and key == b"unacked":
            found -= {json.loads(value)[0]["headers"]["id"] for value in values[1::2]}
    return found


def _written(folder: Path) -> Iterator[tuple[bytes, ...]]:
    """All commands that a server took which changed something, in order."""
    files = folder.glob("appendonlydir/*.incr.aof")
    for file in sorted(files, key=lambda path: int(path.name.split(".")[2])):
        yield from _commands(file.read_bytes())


def _commands(data: bytes) -> Iterator[tuple[bytes, ...]]:
    """Commands of at least one argument; a torn last one is left out, as the server leaves it out."""
    at = 0
    while at < len(data):
        if data[at : at + 1] != b"*":
            raise ValueError(f"no command begins at offset {at}: {data[at : at + 20]!r}")
        try:
            count, at = _number(data, at)
            words = []
            for _ in range(count):
                size, at = _number(data, at)
                words.append(data[at : at + size])
                at += size + 2
        except ValueError:
            return
        if at > len(data):
            return
        if len(words) > 1:
            yield tuple(words)


def _number(data: bytes, at: int) -> tuple[int, int]:
    end = data.index(b"\r\n", at)
    return int(data[at + 1 : end]), end + 2


def _pushed(envelope: dict[str, dict[str, str]]) -> Pushed:
    ((argument,), _, _) = json.loads(base64.b64decode(str(envelope["body"])))
    event = Event.from_json(argument["__value__"])
    return Pushed(envelope["headers"]["id"], int(event.lsn), event.index)
