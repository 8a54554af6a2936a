"""The load generator knows what it made, and makes the same again for the same seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.example_project.support import Shop
from tests.support import wait_until

TABLES = {"users": "users", "orders": "sales.orders", "order_items": "sales.order_items"}


def load(shop: Shop, report: Path, seed: int) -> dict[str, Any]:
    done = shop.run(
        "load.py", "--count", "120", "--rate", "10000", "--seed", str(seed), "--report", str(report)
    )
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(report.read_text())
    return made


def test_its_report_is_what_the_database_tells(shop: Shop, tmp_path: Path) -> None:
    with shop.following() as events:
        made = load(shop, tmp_path / "made.json", 7)
        # The last transaction may have changed nothing but an unwatched field; it is an event all the same.
        expected = sum(sum(made[table].values()) for table in TABLES)
        wait_until(lambda: len(events) >= expected)

    assert made["transactions"] == 120
    counts = {table: {kind: 0 for kind in ("insert", "update", "delete")} for table in TABLES}
    for event in events:
        counts[event.name][event.type] += 1
    assert counts == {table: made[table] for table in TABLES}
    for table, name in TABLES.items():
        [(rows,)] = shop.database.execute(f"SELECT count(*) FROM {name}")
        assert rows == made[table]["insert"] - made[table]["delete"]
    [(revenue,)] = shop.database.execute("SELECT coalesce(sum(total), 0)::text FROM sales.orders")
    assert float(revenue) == float(made["revenue"])


def test_the_same_seed_makes_the_same(shop: Shop, tmp_path: Path) -> None:
    first = load(shop, tmp_path / "first.json", 11)
    shop.database.execute("TRUNCATE users, sales.orders, sales.order_items RESTART IDENTITY")

    assert load(shop, tmp_path / "second.json", 11) == first


def test_check_says_what_is_missing(shop: Shop, tmp_path: Path) -> None:
    load(shop, tmp_path / "made.json", 7)

    checked = shop.run("check.py", str(tmp_path / "made.json"), "--json")

    assert checked.returncode == 1, checked.stderr
    lines = {line["effect"]: line for line in json.loads(checked.stdout)}
    assert lines["welcome emails"]["found"] == "0"
    assert int(lines["welcome emails"]["expected"]) > 0
    assert int(lines["stale order pages"]["found"]) > 0
