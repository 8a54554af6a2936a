"""The shop's tasks. Each has a visible effect that a redelivery does not repeat.

That relies on the task's id, which is the same whenever the same change is delivered.
"""

from __future__ import annotations

from typing import Any

import psycopg2
import redis
from celery import Task
from psycopg2.extras import Json

from shop import outbox
from shop.cache import INVALIDATED, cache, page_key
from shop.celery import app
from shop.database import first_time, transaction
from walex_celery import Event

#: Temporary errors: the task is retried under the same id, with growing pauses.
TRANSIENT = (psycopg2.OperationalError, psycopg2.InterfaceError, redis.ConnectionError)


@app.task(bind=True, autoretry_for=TRANSIENT, retry_backoff=True, max_retries=None)
def send_welcome_email(self: Task[Any, Any], event: Event) -> str:
    """Greet a new user."""
    user = event.new_record
    assert user is not None
    outbox.send(_id(self), "welcome", user["email"], f"Welcome, {user['name']}!")
    return f"email to {user['email']}"


@app.task(bind=True, autoretry_for=TRANSIENT, retry_backoff=True, max_retries=None)
def send_shipping_email(self: Task[Any, Any], event: Event) -> str:
    """Tell a customer that the order is on its way."""
    order, changes = event.new_record, event.changes
    assert order is not None
    if changes is None or "status" not in changes or order["status"] != "shipped":
        return "no email: not shipped by this change"
    text = f"Your order {order['id']} of {order['total']} is on its way."
    outbox.send(_id(self), "shipped", order["email"], text)
    return f"email to {order['email']}"


@app.task(bind=True, autoretry_for=TRANSIENT, retry_backoff=True, max_retries=None)
def index_user(self: Task[Any, Any], event: Event) -> str:
    """Update a user in the search index, which shows the newest change in whatever order they arrive."""
    user = event.new_record
    assert event.key is not None
    key = f"user:{event.key['id']}"
    document = None if user is None else Json({"name": user["name"], "email": user["email"]})
    with transaction() as cursor:
        if not first_time(cursor, _id(self), "index_user"):
            return f"{key} was indexed before"
        # A deleted row leaves its key behind, so that an older change can't bring it back.
        cursor.execute(
            "INSERT INTO search_index (key, document, lsn, event_index) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (key) DO UPDATE "
            "SET document = EXCLUDED.document, lsn = EXCLUDED.lsn, event_index = EXCLUDED.event_index "
            "WHERE (search_index.lsn, search_index.event_index) < (EXCLUDED.lsn, EXCLUDED.event_index)",
            (key, document, str(event.lsn), event.index),
        )
        if cursor.rowcount == 0:
            return f"{key}: the index is newer"
    return f"{key} {'removed from' if document is None else 'put into'} the index"


@app.task(bind=True, autoretry_for=TRANSIENT, retry_backoff=True, max_retries=None)
def forget_order_page(self: Task[Any, Any], event: Event) -> str:
    """Remove an order's page from the cache: it is stale."""
    assert event.key is not None
    order_id = event.key["id" if event.name == "orders" else "order_id"]
    with cache() as client, client.pipeline(transaction=True) as pipeline:
        pipeline.delete(page_key(order_id))
        pipeline.sadd(INVALIDATED, _id(self))
        removed, _ = pipeline.execute()
    return f"page of order {order_id} {'removed' if removed else 'was not cached'}"


def _id(task: Task[Any, Any]) -> str:
    task_id = task.request.id
    assert task_id is not None
    return task_id
