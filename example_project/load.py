"""The shop's customers: inserts, updates and deletes at a given rate, the same ones for the same seed.

    python load.py --rate 20 --seconds 60 --report made.json

The report counts the changes made; ``check.py`` compares the effects with it. The load ends after ``--seconds`` or
``--count`` transactions, or on SIGINT or SIGTERM, after the current transaction.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import connection, cursor

from shop.cache import cache, page_key
from shop.database import database_url

NAMES = ("Ada", "Björn", "Chase", "Dilnoza", "Eve", "Fatou", "Grace", "Hiro", "Iñaki", "Jürgen")
PRODUCTS = ("kettle", "lamp", "notebook", "pen", "teapot")


@dataclass
class Made:
    """What was committed: the number of rows changed by table and kind, and the effects they should have."""

    transactions: int = 0
    users: dict[str, int] = field(default_factory=lambda: {"insert": 0, "update": 0, "delete": 0})
    orders: dict[str, int] = field(default_factory=lambda: {"insert": 0, "update": 0, "delete": 0})
    order_items: dict[str, int] = field(default_factory=lambda: {"insert": 0, "update": 0, "delete": 0})
    #: Changes of users that filters drop: quiet users, and unwatched fields.
    unwatched: int = 0
    #: Like users, without those.
    watched_users: dict[str, int] = field(default_factory=lambda: {"insert": 0, "update": 0, "delete": 0})
    shipped: int = 0
    revenue: str = "0"
    items_sold: int = 0


@dataclass
class Order:
    """An order as its customer sees it: quantity and price by line."""

    user: int
    items: list[tuple[int, Decimal]]
    shipped: bool = False

    @property
    def total(self) -> Decimal:
        return sum((quantity * price for quantity, price in self.items), Decimal(0))

    @property
    def quantity(self) -> int:
        return sum(quantity for quantity, _ in self.items)


class Customers:
    """What the shop's customers do next; each act is one transaction."""

    def __init__(self, opened: connection, seed: int) -> None:
        self.made = Made()
        self._connection = opened
        self._random = random.Random(seed)
        self._users: dict[int, bool] = {}
        self._orders: dict[int, Order] = {}
        self._acts: dict[Callable[[cursor], None], int] = {
            self._sign_up: 25,
            self._order: 30,
            self._rename: 12,
            self._tick_a_todo: 8,
            self._amend: 10,
            self._ship: 15,
            self._cancel: 6,
            self._leave: 4,
        }

    def act(self) -> None:
        """One transaction."""
        [act] = self._random.choices(list(self._acts), weights=list(self._acts.values()))
        if not self._users:
            act = self._sign_up
        elif not self._orders and act in (self._amend, self._ship, self._cancel):
            act = self._order
        with self._connection, self._connection.cursor() as cursor:
            act(cursor)
        self.made.transactions += 1
        orders = self._orders.values()
        self.made.revenue = str(sum((order.total for order in orders), Decimal(0)))
        self.made.items_sold = sum(order.quantity for order in orders)

    def _sign_up(self, cursor: cursor) -> None:
        name = self._random.choice(NAMES)
        watched = self._random.random() < 0.8
        email = f"{name.lower()}{self._random.randrange(1000)}@example.com"
        cursor.execute(
            "INSERT INTO users (name, email, event_subscribe, balance, profile) "
            "VALUES (%s, %s, %s, %s, %s) RETURNING id",
            (name, email, watched, self._price(), json.dumps({"city": "Tartu", "tags": [name[0]]})),
        )
        user = self._returned(cursor)
        self._users[user] = watched
        self._count_user("insert", watched=watched)

    def _rename(self, cursor: cursor) -> None:
        user = self._random.choice(list(self._users))
        # Always a different name: otherwise only updated_at would change.
        cursor.execute("UPDATE users SET name = 'New ' || name WHERE id = %s", (user,))
        self._count_user("update", watched=self._users[user])

    def _tick_a_todo(self, cursor: cursor) -> None:
        user = self._random.choice(list(self._users))
        cursor.execute("UPDATE users SET todos_count = todos_count + 1 WHERE id = %s", (user,))
        self._count_user("update", watched=False)

    def _leave(self, cursor: cursor) -> None:
        user = self._random.choice(list(self._users))
        for order in [number for number, order in self._orders.items() if order.user == user]:
            self._forget(order)
        cursor.execute("DELETE FROM users WHERE id = %s", (user,))
        self._count_user("delete", watched=self._users.pop(user))

    def _order(self, cursor: cursor) -> None:
        user = self._random.choice(list(self._users))
        lines = self._random.randint(1, 3)
        order = Order(user, [(self._random.randint(1, 5), self._price()) for _ in range(lines)])
        cursor.execute(
            "INSERT INTO sales.orders (user_id, email, total) "
            "SELECT id, email, %s FROM users WHERE id = %s RETURNING id",
            (order.total, user),
        )
        number = self._returned(cursor)
        for line, (quantity, price) in enumerate(order.items, 1):
            cursor.execute(
                "INSERT INTO sales.order_items VALUES (%s, %s, %s, %s, %s)",
                (number, line, self._random.choice(PRODUCTS), quantity, price),
            )
        self._orders[number] = order
        self.made.orders["insert"] += 1
        self.made.order_items["insert"] += lines

    def _amend(self, cursor: cursor) -> None:
        number = self._look_at_one()
        order = self._orders[number]
        line = self._random.randrange(len(order.items))
        quantity, price = order.items[line]
        order.items[line] = (quantity + 1, price)
        cursor.execute(
            "UPDATE sales.order_items SET quantity = quantity + 1 WHERE order_id = %s AND line = %s",
            (number, line + 1),
        )
        cursor.execute("UPDATE sales.orders SET total = %s WHERE id = %s", (order.total, number))
        self.made.order_items["update"] += 1
        self.made.orders["update"] += 1

    def _ship(self, cursor: cursor) -> None:
        number = self._look_at_one()
        order = self._orders[number]
        status = "returned" if order.shipped else "shipped"
        order.shipped = not order.shipped
        cursor.execute("UPDATE sales.orders SET status = %s WHERE id = %s", (status, number))
        self.made.orders["update"] += 1
        self.made.shipped += order.shipped

    def _cancel(self, cursor: cursor) -> None:
        number = self._look_at_one()
        self._forget(number)
        cursor.execute("DELETE FROM sales.orders WHERE id = %s", (number,))

    def _forget(self, number: int) -> None:
        order = self._orders.pop(number)
        self.made.orders["delete"] += 1
        self.made.order_items["delete"] += len(order.items)

    def _look_at_one(self) -> int:
        """Cache an order's page just before the order changes, so that the cache is stale afterwards."""
        number = self._random.choice(list(self._orders))
        with cache() as client:
            client.set(page_key(number), f"order {number}: {self._orders[number].total}")
        return number

    def _count_user(self, kind: str, *, watched: bool) -> None:
        self.made.users[kind] += 1
        if watched:
            self.made.watched_users[kind] += 1
        else:
            self.made.unwatched += 1

    def _price(self) -> Decimal:
        return Decimal(self._random.randrange(100, 5000)).scaleb(-2)

    def _returned(self, cursor: cursor) -> Any:
        row = cursor.fetchone()
        assert row is not None
        return row[0]


def run(customers: Customers, *, rate: float, seconds: float | None, count: int | None) -> None:
    """Run *rate* transactions a second until the time or count is reached, or a signal comes."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    began = time.monotonic()
    while not stopping.is_set() and customers.made.transactions != count:
        if seconds is not None and time.monotonic() - began >= seconds:
            return
        customers.act()
        due = began + customers.made.transactions / rate
        stopping.wait(max(0.0, due - time.monotonic()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", type=float, default=10, help="transactions a second (10)")
    parser.add_argument("--seconds", type=float, help="end after so long")
    parser.add_argument("--count", type=int, help="end after so many transactions")
    parser.add_argument("--seed", type=int, help="of all that is left to chance")
    parser.add_argument("--report", type=Path, help="write what was made to this file")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    opened = psycopg2.connect(database_url(), connect_timeout=10)
    try:
        customers = Customers(opened, seed)
        print(f"acting at {given.rate:g} transactions a second, seed {seed}", flush=True)
        run(customers, rate=given.rate, seconds=given.seconds, count=given.count)
    finally:
        opened.close()
    report = json.dumps(asdict(customers.made), indent=2)
    print(report)
    if given.report:
        draft = given.report.with_suffix(".draft")
        draft.write_text(report)
        os.replace(draft, given.report)


if __name__ == "__main__":
    main()
