"""``walex where``: a task's id leads back to the change."""

from __future__ import annotations

import json

import pytest
from celery import Celery

from tests.operations.nodes import command
from tests.support import Database, wait_until
from tests.support.producers import make_app, running
from tests.support.queues import drain
from tests.support.slots import confirmed_flush
from walex_celery import Event, Lsn, WalEx
from walex_celery.cli import EXIT_CONFIGURATION
from walex_celery.events.task_id import task_id, task_id_prefix


@pytest.fixture
def walex(redis_url: str, shop: Database) -> WalEx:
    app = make_app(redis_url)
    walex = WalEx(
        app, name="shop", url=shop.url, slot_name=shop.name, publication="events", subscriptions=["items", "parts"],
        durable_slot=True,
    )  # fmt: skip

    @app.task(name="shop.welcome")
    def welcome(event: Event) -> None:
        pass

    @app.task(name="shop.count")
    def count(event: Event) -> None:
        pass

    walex.on_insert("items", None, [welcome])(lambda events: None)
    walex.on_update("parts", None, [welcome])(lambda events: None)
    walex.on_insert("parts")(count)
    return walex


def where(app: Celery, id: str) -> dict[str, object]:
    result = command(app, "where", "--json", id)
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_an_id_leads_to_position_function_and_tables(walex: WalEx, shop: Database, redis_url: str) -> None:
    lsns: list[Lsn] = []
    walex.on_insert("parts")(lambda events: lsns.extend(event.lsn for event in events))
    with running(walex):
        shop.execute("INSERT INTO items VALUES (1), (2); INSERT INTO parts VALUES (1)")
        wait_until(lambda: lsns)
        wait_until(lambda: confirmed_flush(shop, shop.name) > lsns[0])
    _, second, part = drain(redis_url, "celery")

    found, other = where(walex.app, second.id), where(walex.app, part.id)

    assert found["lsn"] == str(lsns[0])
    assert (found["index"], found["function"], found["instance"]) == (1, "shop.welcome", "shop")
    assert found["tables"] == ["items", "parts"]
    assert found["acknowledged"] is True
    assert (other["index"], other["function"], other["tables"]) == (2, "shop.count", ["parts"])


def test_with_pg_walinspect_the_transaction_and_its_time_are_told(
    walex: WalEx, shop: Database, redis_url: str
) -> None:
    with running(walex):
        shop.execute("CREATE EXTENSION pg_walinspect")
        session = shop.connect()
        session.autocommit = False
        with session.cursor() as cursor:
            cursor.execute("INSERT INTO items VALUES (1) RETURNING txid_current()")
            ((xid,),) = cursor.fetchall()
        session.commit()
        session.close()
        (task,) = wait_until(lambda: drain(redis_url, "celery"))

    found = where(walex.app, task.id)

    assert found["xid"] == xid
    assert str(found["committed"]).startswith("20")
    assert found["notes"] == []


def test_an_id_of_a_function_that_is_not_here_still_tells_its_position(walex: WalEx) -> None:
    id = task_id(task_id_prefix(Lsn.parse("0/16B3748")), 7, 12345)

    result = command(walex.app, "where", id)

    assert result.exit_code == 0
    assert "0/16B3748" in result.stdout
    assert "number 7 of the transaction" in result.stdout
    assert "none of the functions registered here" in result.stderr


def test_without_postgres_the_position_is_told(redis_url: str) -> None:
    app = make_app(redis_url)
    WalEx(app, name="shop", url="postgresql://postgres:hunter2@127.0.0.1:1/shop", publication="events")

    result = command(app, "where", task_id(task_id_prefix(Lsn.parse("0/16B3748")), 0, 5))

    assert result.exit_code == 0
    assert "0/16B3748" in result.stdout
    assert "can't connect to Postgres" in result.stderr
    assert "hunter2" not in result.stderr


def test_what_is_no_id_of_ours_is_refused(walex: WalEx) -> None:
    for text in ("nonsense", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"):
        result = command(walex.app, "where", text)
        assert result.exit_code == EXIT_CONFIGURATION
        assert "UUID" in result.stderr
