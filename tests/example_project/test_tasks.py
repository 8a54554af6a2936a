"""The shop's tasks have their effects once, however often and in whatever order they are delivered (promise 3)."""

from __future__ import annotations

from uuid import uuid4

from celery import Task
from redis import Redis

from shop.cache import INVALIDATED, page_key
from shop.tasks import forget_order_page, index_user, send_shipping_email, send_welcome_email
from tests.example_project.support import Shop
from walex_celery import Event

ADA = "INSERT INTO users (id, name, email) VALUES (1, 'Ada', 'ada@example.com')"
ORDER = "INSERT INTO sales.orders (id, user_id, email, total) VALUES (7, 1, 'ada@example.com', 12.50)"


def deliver(task: Task[..., str], event: Event, task_id: str) -> str:
    result: str = task.apply(args=(event,), task_id=task_id).get()
    return result


def test_a_redelivered_welcome_is_one_email(shop: Shop) -> None:
    [event] = shop.events_of(ADA)

    for _ in range(2):
        deliver(send_welcome_email, event, "the-id")

    [email] = (shop.outbox / "welcome").iterdir()
    assert email.name == "the-id.eml"
    assert "To: ada@example.com" in email.read_text()
    assert "Welcome, Ada!" in email.read_text()


def test_an_order_that_ships_is_told_to_its_customer_once(shop: Shop) -> None:
    _, _, shipped, amended = shop.events_of(
        ADA,
        ORDER,
        "UPDATE sales.orders SET status = 'shipped' WHERE id = 7",
        "UPDATE sales.orders SET total = 13 WHERE id = 7",
    )

    for task_id in ("first", "first"):
        deliver(send_shipping_email, shipped, task_id)
    deliver(send_shipping_email, amended, "second")

    assert [email.name for email in (shop.outbox / "shipped").iterdir()] == ["first.eml"]


def test_the_search_index_shows_the_newest_change_whatever_the_order(shop: Shop) -> None:
    events = shop.events_of(ADA, "UPDATE users SET name = 'Ada L.' WHERE id = 1")
    made, renamed = ((event, str(uuid4())) for event in events)

    results = [deliver(index_user, event, task_id) for event, task_id in (renamed, made, renamed)]

    assert results == ["user:1 put into the index", "user:1: the index is newer", "user:1 was indexed before"]
    assert shop.database.execute("SELECT document->>'name' FROM search_index") == [("Ada L.",)]


def test_changes_of_one_transaction_are_told_apart_by_their_place(shop: Shop) -> None:
    both = f"BEGIN; {ADA}; UPDATE users SET name = 'Ada L.' WHERE id = 1; COMMIT"
    made, renamed = shop.events_of(both)
    assert made.lsn == renamed.lsn

    for event in (renamed, made):
        deliver(index_user, event, str(uuid4()))

    assert shop.database.execute("SELECT document->>'name' FROM search_index") == [("Ada L.",)]


def test_a_deleted_user_stays_out_of_the_index(shop: Shop) -> None:
    made, deleted = shop.events_of(ADA, "DELETE FROM users WHERE id = 1")

    for event in (deleted, made):
        deliver(index_user, event, str(uuid4()))

    assert shop.database.execute("SELECT key, document FROM search_index") == [("user:1", None)]


def test_a_redelivered_change_forgets_its_page_and_counts_once(shop: Shop) -> None:
    _, event = shop.events_of(ADA, ORDER)

    with Redis.from_url(shop.cache_url) as cache:
        cache.set(page_key(7), "page")
        results = [deliver(forget_order_page, event, "the-id") for _ in range(2)]

        assert results == ["page of order 7 removed", "page of order 7 was not cached"]
        assert cache.exists(page_key(7)) == 0
        assert cache.scard(INVALIDATED) == 1
