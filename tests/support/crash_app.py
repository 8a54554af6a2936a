"""The application that the crash tests run in processes of its own."""

from __future__ import annotations

import os

from celery import Celery

from walex_celery import Event, WalEx

app = Celery("crash", broker=os.environ["BROKER_URL"])
app.conf.task_default_queue = "crash"
walex = WalEx(app, name="crash", publication="events", subscriptions=["items"], durable_slot=True)


@walex.on_insert("items")
@app.task(name="crash.record")
def record(event: Event) -> None:
    """Never run: what counts is what reached the queue."""
