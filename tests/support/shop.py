"""The shop that most tests of producers listen to: tables, applications, and handlers that only take notes."""

from __future__ import annotations

from typing import Any

from celery import Celery

from tests.support import Database
from walex_celery import Event, WalEx

SCHEMA = """
CREATE TABLE items (id int PRIMARY KEY, note text);
CREATE TABLE parts (id int PRIMARY KEY);
CREATE SCHEMA sales;
CREATE TABLE sales.orders (id int PRIMARY KEY, note text);
CREATE TABLE unpublished (id int);
ALTER TABLE items REPLICA IDENTITY FULL;
ALTER TABLE sales.orders REPLICA IDENTITY FULL;
CREATE PUBLICATION events FOR TABLE items, parts, sales.orders;
"""


def make_walex(app: Celery, database: Database, **settings: Any) -> WalEx:
    """An instance named ``shop`` that listens to items, with the durable slot ``shop_walex``."""
    defaults = {
        "name": "shop",
        "url": database.url,
        "publication": "events",
        "subscriptions": ["items"],
        "durable_slot": True,
    }
    return WalEx(app, **(defaults | settings))


def make_handling(app: Celery, database: Database, **settings: Any) -> WalEx:
    """As :func:`make_walex`, with a batch handler for inserts into items: a producer without any does not start."""
    walex = make_walex(app, database, **settings)
    walex.on_insert("items")(_ignored)
    return walex


def _ignored(events: list[Event]) -> None:
    """What nothing is done with."""


def make_enqueuing(app: Celery, database: Database, **settings: Any) -> WalEx:
    """As :func:`make_walex`; inserts into items are enqueued as the task ``index``."""
    walex = make_walex(app, database, **settings)

    @walex.on_insert("items")
    @app.task(name="index")
    def index(event: Event) -> None: ...

    return walex


def collect(walex: WalEx, table: str = "items") -> list[Event]:
    """The events of *table* that a batch handler has got so far."""
    events: list[Event] = []

    @walex.on_event(table)
    def collected(batch: list[Event]) -> None:
        events.extend(batch)

    return events
