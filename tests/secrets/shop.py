"""What the commands of the secrets test are run with: handlers, one of which fails on demand."""

from __future__ import annotations

import os
from typing import Final

SHOP: Final = """
import os

from celery import Celery
from walex_celery import Event, WalEx

app = Celery("shop", broker=os.environ["SHOP_BROKER"])
app.conf.worker_send_task_events = app.conf.task_send_sent_event = True
app.conf.update(walex_url=os.environ.get("SHOP_URL"))
walex = WalEx(app, name="shop", publication="events", subscriptions=["items"], durable_slot=True, publish_timeout=2)


@walex.on_event("items")
def changed(events: list[Event]) -> None:
    if events[0].new_record["note"] == "fail":
        secrets = walex.settings
        raise RuntimeError(f"{walex!r} {secrets!r} {secrets}")


@walex.on_insert("items")
@app.task(name="shop.welcome")
def welcome(event: Event) -> str:
    if event.new_record["note"] == "task fails":
        raise RuntimeError(f"{walex!r} {walex.settings!r} {event!r}")
    return f"{event!r} {walex!r}"
"""

#: In each password, and nowhere else.
MARK: Final = "geheimkennwort"


def password(of: str) -> str:
    """A password that no URL, shell or log can hold by accident, nor hide when it holds it encoded."""
    return f"{of}/{MARK}@4%2?ö"


def base_environment() -> dict[str, str]:
    """The environment without settings of this project."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("WALEX_", "SHOP_"))}
