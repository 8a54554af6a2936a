"""The application that tests of delivery run in a thread: one table, one task, a durable slot."""

from __future__ import annotations

from celery import Celery

from tests.support import Database
from walex_celery import Event, WalEx

SCHEMA = "CREATE TABLE items (id int PRIMARY KEY, note text); CREATE PUBLICATION events FOR TABLE items"


def walex_of(app: Celery, database: Database, **settings: object) -> WalEx:
    """Inserts into items are enqueued as the task ``index``."""
    defaults = {"name": "shop", "publication": "events", "subscriptions": ["items"], "durable_slot": True}
    walex = WalEx(app, url=database.url, **(defaults | settings))

    @walex.on_insert("items")
    @app.task(name="index")
    def index(event: Event) -> None: ...

    return walex
