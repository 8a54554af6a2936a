"""A producer without handlers would acknowledge every change unhandled (promises 1, 8)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import running
from tests.support.shop import collect, make_walex
from tests.support.slots import slots
from walex_celery import ConfigurationError, Spool, StreamMessage


@pytest.mark.parametrize("with_spool", [False, True])
def test_with_a_durable_slot_it_does_not_start(
    app: Celery, shop: Database, tmp_path: Path, with_spool: bool
) -> None:
    middleware = Spool(tmp_path / "spool") if with_spool else None
    walex = make_walex(app, shop, slot_name=shop.name, message_middleware=middleware)

    with pytest.raises(ConfigurationError) as raised, running(walex):
        pass

    assert str(raised.value) == (
        f"no handler is registered, and the slot {shop.name} is durable: each change would be dropped and "
        "acknowledged, and would never come again\n"
        "  fix: decorate a function or a task with @walex.on_event(...), in the application's module, in a module that "
        "Celery loads (include=), in shop.events.items, or in a module listed in modules="
    )
    assert slots(shop) == []


def test_with_a_temporary_slot_it_warns(
    app: Celery, shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler may still be added, and a temporary slot promises nothing of what came before."""
    walex = make_walex(app, shop, durable_slot=False)

    with caplog.at_level(logging.WARNING, "walex_celery"), running(walex):
        events = collect(walex)
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: events, message="the handler that was added gets the event")

    assert caplog.text.count("no handler is registered: each change is dropped") == 1


def test_a_middleware_of_the_user_s_own_may_be_all_that_handles_messages(
    app: Celery, shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    messages: list[StreamMessage] = []

    def keep(message: StreamMessage, app_name: str) -> None:
        messages.append(message)

    walex = make_walex(app, shop, slot_name=shop.name, message_middleware=keep)

    with caplog.at_level(logging.WARNING, "walex_celery"), running(walex):
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: messages, message="the middleware gets messages")

    assert "no handler is registered" in caplog.text


def test_handlers_may_be_added_to_a_producer_that_has_one(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop, slot_name=shop.name, subscriptions=["items", "parts"])
    collect(walex)

    with running(walex):
        added = collect(walex, "parts")
        shop.execute("INSERT INTO parts VALUES (1)")
        wait_until(lambda: added, message="the handler that was added gets the event")
