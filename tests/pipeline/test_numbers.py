"""``numbers="decimal"``: producer and worker give the same value, and only the producer has the setting (promise 7)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import Database, wait_until
from tests.support.project import Project

SECONDS = 60
PRODUCER = ("-A", "shop", "walex", "producer")
WORKER = ("-A", "shop", "worker", "--pool", "solo", "--loglevel", "INFO")
SHOP = {
    "shop.py": """
        from celery import Celery
        from walex_celery import WalEx, Event

        app = Celery("shop")
        app.conf.task_ignore_result = True
        walex = WalEx(app, publication="events", subscriptions=["products"])


        def note(where, event):
            with open(where, "a") as file:
                print(event.new_record, event.changes, file=file, flush=True)


        @walex.on_event("products")
        def in_producer(events: list[Event]) -> None:
            for event in events:
                note("producer", event)


        @walex.on_event("products")
        @app.task
        def in_worker(event: Event) -> None:
            note("worker", event)
        """
}


@pytest.mark.parametrize("native", ["1", "0"], ids=["compiled", "python"])
def test_a_worker_without_the_setting_gets_what_the_producer_had(
    database: Database, redis_url: str, tmp_path: Path, native: str
) -> None:
    database.execute(
        "CREATE TABLE products (id int PRIMARY KEY, data jsonb, raw json, prices jsonb[]);"
        " ALTER TABLE products REPLICA IDENTITY FULL; CREATE PUBLICATION events FOR TABLE products"
    )
    project = Project(tmp_path)
    project.write(SHOP)
    broker = {"CELERY_BROKER_URL": redis_url}
    settings = {"WALEX_URL": database.url, "WALEX_SLOT_NAME": database.name, "WALEX_NUMBERS": "decimal"}

    def noted(name: str) -> list[str]:
        path = tmp_path / name
        return path.read_text().splitlines() if path.exists() else []

    with (
        project.command(*PRODUCER, **broker, **settings, WALEX_NATIVE=native),
        project.command(*WORKER, **broker),
    ):
        wait_until(lambda: "streaming from" in project.output(*PRODUCER), SECONDS, "the producer streams")
        database.execute(
            """INSERT INTO products VALUES (1, '{"price": 9.5}', '[1e2, 1.50, 3]', ARRAY['0.25'::jsonb])"""
        )
        database.execute("""UPDATE products SET data = '{"price": 0.1234567890123456789}'""")
        wait_until(lambda: len(noted("worker")) == 2, SECONDS, "the worker has both")

    rest = "'raw': [Decimal('1E+2'), Decimal('1.50'), 3], 'prices': [Decimal('0.25')]}"
    before, after = (f"{{'price': Decimal('{price}')}}" for price in ("9.5", "0.1234567890123456789"))
    assert noted("producer") == [
        f"{{'id': 1, 'data': {before}, {rest} None",
        f"{{'id': 1, 'data': {after}, {rest} {{'data': Change(new_value={after}, old_value={before})}}",
    ]
    assert noted("worker") == noted("producer")
