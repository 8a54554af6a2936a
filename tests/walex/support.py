"""What the WalEx chapters share: a database as WalEx's README has it, and what events look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support import wait_until
from walex_celery import Event

# WalEx's README subscribes to "user" and "todo"; its filters name event_subscribe, todos_count and updated_at.
SCHEMA = """
CREATE TABLE "user" (
    id integer PRIMARY KEY, name varchar, event_subscribe boolean NOT NULL DEFAULT true,
    todos_count integer NOT NULL DEFAULT 0, updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE todo (id integer PRIMARY KEY, user_id integer, title text);
CREATE TABLE unpublished (id integer);
ALTER TABLE "user" REPLICA IDENTITY FULL;
ALTER TABLE todo REPLICA IDENTITY FULL;
CREATE PUBLICATION events FOR TABLE "user", todo;
"""


def wait_for(events: list[Event], count: int) -> list[Event]:
    """Wait until *events* are so many, and return them; more than that fail."""
    wait_until(lambda: len(events) >= count, message=f"{count} events in {events}")
    assert len(events) == count
    return events


def row(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """A record that must be there, as a dict."""
    assert record is not None
    return dict(record)
