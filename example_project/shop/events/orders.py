"""Changes of sales.orders."""

from __future__ import annotations

from datetime import UTC, date
from decimal import Decimal

from shop.celery import walex
from shop.database import not_seen, transaction
from shop.tasks import send_shipping_email
from walex_celery import Event, Filters

QUIET = Filters(unwatched_fields=("updated_at",))


@walex.on_event("sales.orders", QUIET, ["shop.tasks.forget_order_page"])
def count_revenue(events: list[Event]) -> None:
    """Maintain the totals of each day: in commit order, each change once."""
    with transaction() as cursor:
        for event in not_seen(cursor, "count_revenue", events):
            day, revenue, orders = _revenue(event)
            cursor.execute(
                "INSERT INTO daily_revenue AS totals VALUES (%s, %s, %s) ON CONFLICT (day) DO UPDATE "
                "SET revenue = totals.revenue + EXCLUDED.revenue, orders = totals.orders + EXCLUDED.orders",
                (day, revenue, orders),
            )


def _revenue(event: Event) -> tuple[date, Decimal, int]:
    """The difference that an event makes to its day's totals: revenue and number of orders."""
    order = event.new_record if event.new_record is not None else event.old_record
    assert order is not None
    day = order["placed_at"].astimezone(UTC).date()
    if event.type == "insert":
        return day, order["total"], 1
    if event.type == "delete":
        return day, -order["total"], -1
    total = (event.changes or {}).get("total")
    return day, total.new_value - total.old_value if total else Decimal(0), 0


walex.on_update("sales.orders", QUIET)(send_shipping_email)
