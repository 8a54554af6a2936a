"""``walex tail``: shows events as they happen, from a temporary slot. No handler runs, no task is sent."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.text import Text

from walex_celery.events.event import Event, printable, short
from walex_celery.filters import ALL_TABLES, Filters
from walex_celery.handlers.kinds import KINDS, MESSAGE, ON_EVENT
from walex_celery.handlers.registry import Handler
from walex_celery.pipeline.assembler import new_assembler
from walex_celery.pipeline.planner import Planner
from walex_celery.postgres.catalog import Catalog
from walex_celery.postgres.connection import connect
from walex_celery.postgres.server import check_prerequisites, inspect_server
from walex_celery.postgres.stream import ReplicationStream
from walex_celery.settings.changes import changed
from walex_celery.settings.model import WalExSettings

_LONGEST_VALUE = 60


def tail(
    settings: WalExSettings, tables: Iterable[str], stopping: threading.Event, *, started: Callable[[], Any]
) -> Iterator[Event]:
    """The events of *tables* (default: the subscriptions) from now on, until *stopping* is set.

    *started* is called once streaming has begun.

    Raises:
        WalExError: Postgres can't be reached, or is not set up.
    """
    settings = changed(settings, "replace", "slot_name", f"walex_tail_{secrets.token_hex(6)}")
    settings = changed(settings, "replace", "message_middleware", None)
    settings = changed(settings, "replace", "durable_slot", False)
    wanted = list(tables) or list(settings.subscriptions) or [ALL_TABLES]
    settings = changed(settings, "replace", "subscriptions", wanted)
    slot = settings.slot_settings()
    catalog = Catalog(slot.connection, slot.publications)
    connection = connect(slot.connection)
    try:
        check_prerequisites(connection, slot)
        server = inspect_server(connection, slot.connection)
    finally:
        connection.close()
    planner = Planner(settings, [_everything(ON_EVENT), _everything(MESSAGE.decorator)], catalog)
    assembler = new_assembler(planner.planning)
    stream = ReplicationStream(slot, server)
    try:
        stream.create_slot()
        stream.start()
        started()
        while not stopping.is_set():
            messages = stream.read(pending=False, timeout=0.5)
            for message in messages:
                chunk = assembler.feed(message.payload)
                if chunk is not None:
                    yield from (routed.event for routed in chunk.routed)
            stream.acknowledge(assembler.end_lsn, now=False)
            if not messages and not assembler.in_transaction:
                stream.acknowledge(stream.wal_end, now=True)
    finally:
        stream.close()
        catalog.close()


def _everything(decorator: str) -> Handler:
    return Handler(decorator, None, None, Filters(), (), None, __name__)


def render_event(event: Event) -> Text:
    """One line for a terminal: when, what, where, and the row or its changes."""
    line = Text()
    line.append(f"{event.timestamp:%H:%M:%S.%f}"[:-3], style="dim")
    line.append(f" {event.type:9}", style=KINDS[event.type].colour)
    line.append(printable(event.source.full_name or event.name), style="bold")
    line.append(f" {event.lsn}", style="dim")
    for name, value in _details(event):
        line.append(f" {printable(name)}=", style="blue")
        line.append(short(value, _LONGEST_VALUE))
    return line


def _details(event: Event) -> Iterator[tuple[str, str]]:
    if event.content is not None:
        yield "content", repr(event.content)
    if event.cascade:
        yield "cascade", "yes"
    if event.restart_identity:
        yield "restart_identity", "yes"
    if event.changes is not None:
        for name, value in (event.key or {}).items():
            yield name, str(value)
        for name, change in event.changes.items():
            yield name, f"{change.old_value!r} -> {change.new_value!r}"
        return
    record = event.new_record if event.new_record is not None else event.old_record
    for name, value in (record or {}).items():
        yield name, "NULL" if value is None else str(value)
