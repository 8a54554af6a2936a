"""Changes of sales.order_items."""

from __future__ import annotations

from shop.celery import walex
from shop.database import not_seen, transaction
from shop.tasks import forget_order_page
from walex_celery import Event


@walex.on_event("sales.order_items", functions=[forget_order_page])
def count_items_sold(events: list[Event]) -> None:
    """Count the sold items of each product: in commit order, each change once."""
    with transaction() as cursor:
        for event in not_seen(cursor, "count_items_sold", events):
            for product, quantity in _sold(event):
                cursor.execute(
                    "INSERT INTO items_sold AS totals VALUES (%s, %s) ON CONFLICT (product) DO UPDATE "
                    "SET quantity = totals.quantity + EXCLUDED.quantity",
                    (product, quantity),
                )


def _sold(event: Event) -> list[tuple[str, int]]:
    """The differences that an event makes: (product, quantity)."""
    item = event.new_record if event.new_record is not None else event.old_record
    assert item is not None
    if event.type == "insert":
        return [(item["product"], item["quantity"])]
    if event.type == "delete":
        return [(item["product"], -item["quantity"])]
    changes = event.changes or {}
    product = changes["product"].old_value if "product" in changes else item["product"]
    quantity = changes["quantity"].old_value if "quantity" in changes else item["quantity"]
    return [(product, -quantity), (item["product"], item["quantity"])]
