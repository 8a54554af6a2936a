"""A slot read in process as the producer reads it, each event sent over the wire to where a worker would be."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from kombu.utils.json import dumps, loads

from tests.support import Database
from walex_celery import Event
from walex_celery.filters import ALL_TABLES, Filters
from walex_celery.handlers.registry import Handler
from walex_celery.pipeline.assembler import new_assembler
from walex_celery.pipeline.planner import Planner
from walex_celery.postgres.catalog import Catalog
from walex_celery.postgres.connection import connect
from walex_celery.postgres.server import inspect_server
from walex_celery.postgres.stream import ReplicationStream
from walex_celery.settings.model import load_settings

_MARK = "reader of the tests"


def over_the_wire(event: Event) -> Event:
    """The event that a task gets: through the JSON of a Celery message."""
    (received,) = loads(dumps([event]))
    assert isinstance(received, Event)
    assert received is not event
    return received


class Reader:
    """A durable slot on *database*; what it has read, it does not read again.

    Args:
        role, password: who reads; the superuser, if not given.
        payloads: keep the bytes of each message.
    """

    def __init__(
        self,
        database: Database,
        publications: list[str],
        *,
        role: str | None = None,
        password: str | None = None,
        payloads: list[bytes] | None = None,
    ) -> None:
        url = database.server.url(database.name, user=role, password=password)
        self.settings = load_settings(
            {
                "name": "shadow",
                "url": url,
                "publication": publications,
                "subscriptions": [ALL_TABLES],
                "durable_slot": True,
                "slot_name": f"shadow_{secrets.token_hex(6)}",
            },
            {},
        )
        self._database = database
        self._payloads = payloads
        self._slot = self.settings.slot_settings()
        self._catalog = Catalog(self._slot.connection, self._slot.publications)
        planner = Planner(self.settings, [_everything("on_event"), _everything("on_message")], self._catalog)
        self._assembler = new_assembler(planner.planning)
        self._stream: ReplicationStream | None = None
        database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (self.settings.slot,))

    def read(self) -> list[Event]:
        """All events up to now, as the producer has them; what has been read is acknowledged."""
        mark = secrets.token_bytes(8)
        self._database.execute("SELECT pg_logical_emit_message(true, %s, %s::bytea)", (_MARK, mark))
        events: list[Event] = []
        for event in self._events(time.monotonic() + 60):
            if event.type == "message" and event.name == _MARK:
                if event.content == mark:
                    return events
            else:
                events.append(event)
        raise AssertionError("unreachable")

    def _events(self, deadline: float) -> Iterator[Event]:
        stream = self._stream or self._start()
        while True:
            assert time.monotonic() < deadline, "what was committed has not arrived"
            chunks = []
            for message in stream.read(pending=False, timeout=1):
                if self._payloads is not None:
                    self._payloads.append(message.payload)
                chunk = self._assembler.feed(message.payload)
                if chunk is not None:
                    chunks.append(chunk)
            stream.acknowledge(self._assembler.end_lsn, now=True)
            for chunk in chunks:
                yield from (routed.event for routed in chunk.routed)

    def _start(self) -> ReplicationStream:
        connection = connect(self._slot.connection)
        try:
            server = inspect_server(connection, self._slot.connection)
        finally:
            connection.close()
        self._stream = ReplicationStream(self._slot, server)
        self._stream.start()
        return self._stream

    def close(self) -> None:
        """End the stream; the slot goes with its database."""
        if self._stream is not None:
            self._stream.close()
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _everything(kind: str) -> Handler:
    def batch(events: list[Event]) -> Any:
        raise AssertionError("nobody calls it")

    return Handler(kind, None, None, Filters(), (), batch, __name__)
