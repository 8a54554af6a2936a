"""A producer with a batch handler that uses Django's connection; arguments: URL, broker's URL, DATABASES, on_error."""

from __future__ import annotations

import json
import sys

import django  # type: ignore[import-untyped]
from django.conf import settings  # type: ignore[import-untyped]

from tests.support.producers import make_app
from walex_celery import Event, Producer, WalEx


def main(url: str, broker_url: str, database: str, on_error: str) -> None:
    """Store each item's id in ``done``; *database* is Django's, as JSON."""
    settings.configure(DATABASES={"default": json.loads(database)})
    django.setup()
    from django.db import connection  # type: ignore[import-untyped]

    walex = WalEx(
        make_app(broker_url), name="shop", url=url, publication="events", subscriptions=["items"], durable_slot=True,
        on_error=on_error, dead_letters="postgres",
    )  # fmt: skip

    @walex.on_insert("items")
    def items(events: list[Event]) -> None:
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO done VALUES (%s)", [[event.new_record["id"]] for event in events])

    Producer(walex).run()


main(*sys.argv[1:])
