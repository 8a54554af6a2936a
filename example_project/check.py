"""Compares the shop's effects with what ``load.py`` changed: did every change make its tasks run?

    python check.py made.json --wait 30

The shop must have been empty before. Exits with 0 if all is as expected, with 1 if it is not after ``--wait`` seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from shop.cache import INVALIDATED, cache, page_key
from shop.database import transaction
from shop.outbox import outbox


class Line(NamedTuple):
    """One kind of effect: what it is, how many there should be, how many there are."""

    effect: str
    expected: str
    found: str


def expected(made: dict[str, Any]) -> dict[str, str]:
    """The effects that the changes of a report should have."""
    watched = made["watched_users"]
    forgotten = sum(made["orders"].values()) + sum(made["order_items"].values())
    numbers = {
        "welcome emails": watched["insert"],
        "shipping emails": made["shipped"],
        "search index updates": sum(watched.values()),
        "users in the index, as they are now": watched["insert"] - watched["delete"],
        "users gone from the index": watched["delete"],
        "order pages invalidated": forgotten,
        "stale order pages": 0,
        "revenue": Decimal(made["revenue"]),
        "items sold": made["items_sold"],
    }
    return {effect: str(number) for effect, number in numbers.items()}


def found() -> dict[str, str]:
    """The effects found."""
    with transaction() as cursor:

        def one(query: str) -> Any:
            cursor.execute(query)
            row = cursor.fetchone()
            assert row is not None
            return row[0]

        numbers = {
            "welcome emails": len(list((outbox() / "welcome").glob("*.eml"))),
            "shipping emails": len(list((outbox() / "shipped").glob("*.eml"))),
            "search index updates": one("SELECT count(*) FROM inbox WHERE task = 'index_user'"),
            "users in the index, as they are now": one(
                "SELECT count(*) FROM search_index JOIN users ON key = 'user:' || id "
                "WHERE document = jsonb_build_object('name', name, 'email', email)"
            ),
            "users gone from the index": one("SELECT count(*) FROM search_index WHERE document IS NULL"),
            "revenue": one("SELECT coalesce(sum(revenue), 0) FROM daily_revenue"),
            "items sold": one("SELECT coalesce(sum(quantity), 0) FROM items_sold"),
        }
    with cache() as client:
        numbers["order pages invalidated"] = client.scard(INVALIDATED)
        numbers["stale order pages"] = sum(1 for _ in client.scan_iter(page_key(0)[:-1] + "*"))
    return {effect: str(number) for effect, number in numbers.items()}


def compare(made: dict[str, Any]) -> list[Line]:
    """Expected beside found."""
    there = found()
    return [Line(effect, number, there[effect]) for effect, number in expected(made).items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("report", type=Path, help="what load.py --report wrote")
    parser.add_argument("--wait", type=float, default=0, help="seconds that the effects may take (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    made = json.loads(given.report.read_text())
    deadline = time.monotonic() + given.wait
    pause = threading.Event()
    while True:
        lines = compare(made)
        right = all(Decimal(line.expected) == Decimal(line.found) for line in lines)
        if right or time.monotonic() >= deadline:
            break
        pause.wait(0.2)
    if given.json:
        print(json.dumps([line._asdict() for line in lines]))
    else:
        for line in lines:
            print(f"{line.effect:40} expected {line.expected:>10}  found {line.found:>10}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
