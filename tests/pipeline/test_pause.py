"""Pausing, resuming, and what the producer says of itself meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import running
from tests.support.shop import collect, make_walex
from tests.support.slots import active, confirmed, written
from walex_celery import Event, Lsn, Producer, Spool, WalEx
from walex_celery.telemetry.report import HandlerStatus, ProducerStatus, TableStatus


def told(producer: Producer) -> ProducerStatus:
    status = producer.snapshot()
    assert status is not None
    return status


def pause(producer: Producer) -> None:
    producer.pause()
    wait_until(lambda: told(producer).state == "paused")


def test_before_it_runs_there_is_nothing_to_tell(app: Celery, shop: Database) -> None:
    assert Producer(make_walex(app, shop)).snapshot() is None


def test_paused_it_reads_nothing_and_holds_the_slot_until_it_is_resumed(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    events = collect(walex)
    with running(walex) as producer:
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: len(events) == 1)
        pause(producer)
        acknowledged = confirmed(shop)

        shop.execute("INSERT INTO items VALUES (2)")
        wait_until(lambda: (told(producer).lag.bytes or 0) > 0)

        assert len(events) == 1
        assert active(shop)
        assert confirmed(shop) == acknowledged
        producer.resume()
        wait_until(lambda: len(events) == 2)
        wait_until(lambda: told(producer).state == "streaming")


def test_what_is_in_hand_when_it_is_paused_is_finished_and_acknowledged(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    entered, leave = threading.Event(), threading.Event()
    events: list[Event] = []

    @walex.on_insert("items")
    def slow(batch: list[Event]) -> None:
        entered.set()
        assert leave.wait(20)
        events.extend(batch)

    with running(walex) as producer:
        # Many chunks: the boundary is far.
        shop.execute("INSERT INTO items SELECT generate_series(1, 5000)")
        assert entered.wait(20)
        producer.pause()
        assert told(producer).state == "in a handler"
        leave.set()
        wait_until(lambda: told(producer).state == "paused", 20)

        assert len(events) == 5000
        read = Lsn.parse(told(producer).read_lsn)
        assert read > 0
        wait_until(lambda: confirmed(shop) >= read)
        producer.resume()


def test_paused_it_stops_when_asked(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    collect(walex)
    with running(walex) as producer:
        pause(producer)
    assert told(producer).state == "ended"


def test_paused_it_comes_back_paused_when_the_connection_broke(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    events = collect(walex)
    with running(walex) as producer:
        pause(producer)
        shop.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()"
        )
        wait_until(lambda: told(producer).reconnects == 1, 30)
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: told(producer).state == "paused")
        assert not events

        producer.resume()
        wait_until(lambda: len(events) == 1)


def test_with_a_spool_the_slot_is_read_on_while_processing_is_paused(
    app: Celery, shop: Database, tmp_path: Path
) -> None:
    walex = make_walex(app, shop, message_middleware=Spool(tmp_path / "spool"))
    events = collect(walex)
    with running(walex) as producer:
        shop.execute("INSERT INTO items VALUES (0)")
        wait_until(lambda: len(events) == 1)
        pause(producer)

        shop.execute("INSERT INTO items SELECT generate_series(1, 3000)")
        end = written(shop)
        wait_until(lambda: confirmed(shop) >= end)

        status = told(producer)
        assert status.spool is not None
        assert status.spool.waiting_bytes > 3000 * 10
        assert len(events) == 1
        producer.resume()
        wait_until(lambda: len(events) == 3001)


def test_it_tells_what_it_did_by_handler_table_and_type(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)

    @app.task(name="noted")
    def noted(event: Event) -> None:
        pass

    @walex.on_insert("items", {"unwatched_records": {"note": "quiet"}}, [noted])
    def inserted(events: list[Event]) -> None:
        pass

    with running(walex) as producer:
        shop.execute("INSERT INTO items VALUES (1, 'a'), (2, 'quiet'), (3, 'b')")
        wait_until(lambda: told(producer).tasks == 2)
        wait_until(lambda: told(producer).unconfirmed_tasks == 0)
        wait_until(lambda: told(producer).publish.count > 0)
        wait_until(lambda: told(producer).lag.bytes is not None)
        status = told(producer)

    (handler,) = status.handlers
    assert isinstance(handler, HandlerStatus)
    assert (handler.name.rpartition(".")[2], handler.calls, handler.events, handler.errors) == (
        "inserted",
        1,
        2,
        0,
    )
    assert handler.seconds.mean is not None
    assert status.tables == (TableStatus("public.items", "insert", 2, 1),)
    assert (status.name, status.slot, status.durable_slot) == ("shop", "shop_walex", True)
    assert status.transactions == 1
    assert status.node.startswith("walex.shop@")
    assert msgspec.json.decode(msgspec.json.encode(status), type=ProducerStatus) == status


def test_it_tells_no_secret(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    collect(walex)
    with running(walex) as producer:
        text = msgspec.json.encode(told(producer)).decode()

    password = WalEx(
        Celery(set_as_current=False), name="other", url=shop.url, publication="p"
    ).settings.password
    assert password is not None
    assert shop.name in text
    assert password.get_secret_value() not in text
