"""The shop's Celery application, and the tables that it subscribes to."""

from __future__ import annotations

import os

from celery import Celery

from walex_celery import WalEx

app = Celery("shop", broker=os.environ.get("BROKER_URL", "redis://localhost:6379/0"), include=["shop.tasks"])
app.conf.update(
    # If a worker dies in the middle of a task, another one runs it again; its effects still happen once.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    # Flower sees tasks when they are enqueued, and what workers do with them.
    task_send_sent_event=True,
    worker_send_task_events=True,
    broker_connection_retry_on_startup=True,
    # A default: WALEX_URL, or a line in .env, overrides it.
    walex_url="postgresql://localhost/shop",
)

walex = WalEx(
    app,
    name="shop",
    publication="events",
    subscriptions=["users", "sales.orders", "sales.order_items"],
    durable_slot=True,
)
