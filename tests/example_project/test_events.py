"""The shop's batch handlers count each change once, although a transaction may be handed over again (promise 3)."""

from __future__ import annotations

from decimal import Decimal

from shop.events.order_items import count_items_sold
from shop.events.orders import count_revenue
from tests.example_project.support import Shop

USER = "INSERT INTO users (id, name, email) VALUES (1, 'Ada', 'ada@example.com')"
ORDERS = """
    INSERT INTO sales.orders (id, user_id, email, total, placed_at)
    VALUES (7, 1, '', 12.50, '2026-03-01 23:30-05'), (8, 1, '', 1, '2026-03-02 12:00+00')
"""


def test_revenue_is_counted_once_by_the_day_of_the_order(shop: Shop) -> None:
    events = shop.events_of(
        USER,
        ORDERS,
        "UPDATE sales.orders SET total = 20 WHERE id = 7",
        "UPDATE sales.orders SET status = 'shipped'",
        "DELETE FROM sales.orders WHERE id = 8",
    )
    orders = [event for event in events if event.name == "orders"]

    # The first two were acknowledged, so the third comes with what follows it; then all come again.
    for batch in (orders[:2], orders[2:3], orders[2:], orders):
        count_revenue(batch)

    assert shop.database.execute("SELECT day::text, revenue, orders FROM daily_revenue") == [
        ("2026-03-02", Decimal("20.00"), 1)
    ]


def test_items_sold_follow_inserts_updates_and_deletes(shop: Shop) -> None:
    events = shop.events_of(
        USER,
        ORDERS,
        "INSERT INTO sales.order_items VALUES (7, 1, 'pen', 2, 1), (7, 2, 'lamp', 1, 30), (8, 1, 'pen', 5, 1)",
        "UPDATE sales.order_items SET quantity = 3, product = 'teapot' WHERE order_id = 7 AND line = 1",
        "DELETE FROM sales.orders WHERE id = 8",
    )
    items = [event for event in events if event.name == "order_items"]

    for batch in (items, items):
        count_items_sold(batch)

    assert shop.database.execute("SELECT product, quantity FROM items_sold ORDER BY 1") == [
        ("lamp", 1),
        ("pen", 0),
        ("teapot", 3),
    ]
