"""``walex status``: with everything there, and with each part of it away."""

from __future__ import annotations

import io
import json
import re
import signal
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from celery import Celery
from rich.console import Console

from tests.operations.nodes import command, present
from tests.support import Database, wait_until
from tests.support.process import commanding, producer_process
from tests.support.producers import make_app, running, status_of
from tests.support.shop import make_walex
from walex_celery import Event, Lsn, WalEx
from walex_celery.cli import EXIT_NO_PRODUCER, EXIT_OK
from walex_celery.operations.monitor.screen import render
from walex_celery.operations.monitor.status import StatusReader, StatusReport
from walex_celery.telemetry.report import LagStatus, durations
from walex_celery.telemetry.statistics import Durations
from walex_celery.testing.servers import Valkey

GIB = 1024**3


def shown(report: StatusReport) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(render(report))
    return console.export_text()


def test_all_is_told_at_a_glance_and_as_json(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)

    @walex.on_insert("items", {"unwatched_records": {"note": "quiet"}})
    def inserted(events: list[Event]) -> None:
        pass

    with present(app, walex) as producer:
        shop.execute("INSERT INTO items VALUES (1, 'a'), (2, 'quiet'), (3, 'b')")
        wait_until(lambda: producer.statistics.events == 2)
        wait_until(lambda: status_of(producer).lag.bytes is not None)
        text = command(app, "status")
        as_json = command(app, "status", "--json")

    assert (text.exit_code, as_json.exit_code) == (EXIT_OK, EXIT_OK)
    for expected in (
        producer.node,
        "● streaming",
        "inserted",
        "public.items",
        "2 events",
        "(durable), in use by Postgres process",
    ):
        assert expected in text.output
    report = msgspec.json.decode(as_json.output, type=StatusReport)
    (found,) = report.producers
    assert (report.instance, report.problems) == ("shop", ())
    assert (found.events, found.handlers[0].events, found.tables[0].filtered) == (2, 2, 1)
    assert report.slot is not None
    assert (report.slot.active, report.slot.wal_status, report.slot.temporary) == (True, "reserved", False)
    assert report.slot.lag_bytes is not None
    for output in (text.output, as_json.output):
        assert shop.server.password not in output


def test_watched_it_is_told_again_and_again_until_ctrl_c(
    shop: Database, redis_url: str, tmp_path: Path
) -> None:
    with (
        producer_process(shop, redis_url, tmp_path / "log") as producer,
        commanding(shop, redis_url, "status", "--watch", "--json", "--interval", "0.1") as watching,
    ):
        assert watching.stdout is not None
        reports = (msgspec.json.decode(line, type=StatusReport) for line in watching.stdout)
        # The producer comes while it is being watched for.
        first = next(report for report in reports if report.producers)
        shop.execute("INSERT INTO items VALUES (1)")
        later = next(report for report in reports if report.producers and report.producers[0].events)
        watching.send_signal(signal.SIGINT)
        code = watching.wait(30)

    assert [one.pid for report in (first, later) for one in report.producers] == [producer.pid] * 2
    assert (first.producers[0].events, later.producers[0].events) == (0, 1)
    assert code == EXIT_OK


def test_the_lag_is_known_before_anything_was_ever_acknowledged(shop: Database) -> None:
    """A slot just made, and a first transaction whose tasks wait for a broker that went away."""
    with Valkey() as valkey:
        app = make_app(valkey.url(0))
        walex = make_walex(app, shop)

        @walex.on_insert("items")
        def away(events: list[Event]) -> None:
            valkey.kill()

        @walex.on_insert("items")
        @app.task(name="shop.notify", shared=False)
        def notify(event: Event) -> None: ...

        with running(walex) as producer:
            shop.execute("INSERT INTO items VALUES (1)")
            wait_until(lambda: status_of(producer).lag.seconds)
            assert (status_of(producer).lag.bytes or 0) > 0
            assert status_of(producer).acknowledged_lsn == slot_position(shop)
            valkey.start()
            wait_until(lambda: status_of(producer).unconfirmed_tasks == 0, 30)


def slot_position(database: Database) -> str:
    ((position,),) = database.execute(
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s", ["shop_walex"]
    )
    return str(Lsn.parse(position))


def test_without_a_producer_the_slot_and_its_lag_are_told(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    walex.on_insert("items")(lambda events: None)
    shop.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", ["shop_walex"])
    shop.execute("INSERT INTO items SELECT generate_series(1, 5000)")

    text = command(app, "status", "--timeout", "0.2")
    report = json.loads(command(app, "status", "--json", "--timeout", "0.2").output)

    assert text.exit_code == EXIT_NO_PRODUCER
    assert "the slot is not in use: start one with" in text.output.replace("\n", " ")
    assert report["slot"]["active"] is False
    assert report["slot"]["lag_bytes"] > 5000 * 20
    assert report["producers"] == []


def test_without_a_slot_that_is_said(app: Celery, shop: Database) -> None:
    make_walex(app, shop)

    assert "does not exist; changes are not kept" in command(app, "status", "--timeout", "0.2").output


def test_without_the_broker_the_slot_is_told(shop: Database) -> None:
    app = make_app("redis://:hunter2@127.0.0.1:1/0")
    make_walex(app, shop)
    shop.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", ["shop_walex"])

    result = command(app, "status")

    assert result.exit_code == EXIT_NO_PRODUCER
    assert "producers can't be reached: The broker" in result.output
    assert "shop_walex (durable), not in use" in result.output
    assert "hunter2" not in result.output


def test_without_postgres_or_settings_the_producer_is_told(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    walex.on_insert("items")(lambda events: None)
    elsewhere = make_app(app.conf.broker_url)
    WalEx(elsewhere, name="shop", url="postgresql://postgres:hunter2@127.0.0.1:1/shop", publication="events")
    unset = make_app(app.conf.broker_url)
    WalEx(unset, name="shop")
    with present(app, walex) as producer:
        away = command(elsewhere, "status")
        unconfigured = command(unset, "status")

    assert (away.exit_code, unconfigured.exit_code) == (EXIT_OK, EXIT_OK)
    assert producer.node in away.output
    assert "can't connect to Postgres at postgres@127.0.0.1:1/shop" in away.output
    assert "hunter2" not in away.output
    assert producer.node in unconfigured.output
    assert "the slot is unknown" in unconfigured.output


def test_a_backlog_shows_how_much_is_left_and_when_it_will_be_done(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    walex.on_insert("items")(lambda events: None)
    with present(app, walex), StatusReader(walex, "shop") as reader:
        report = reader.read()
    lag = LagStatus(GIB, 300.0, 4 * GIB, seconds_left=185.0, measured_at=datetime.now(UTC))
    behind = msgspec.structs.replace(
        report, producers=(msgspec.structs.replace(report.producers[0], lag=lag),)
    )

    text = shown(behind)

    assert "1.0 GiB" in text
    assert "done in about 3 min" in text
    assert "75% of 4.0 GiB" in text
    assert "━" in text


def test_the_times_of_a_fast_handler_agree(app: Celery, shop: Database) -> None:
    """A mean of 12 µs was shown as 0.0 ms, beside a p50 of 0.5 ms."""
    walex = make_walex(app, shop)
    walex.on_insert("items")(lambda events: None)
    with present(app, walex), StatusReader(walex, "shop") as reader:
        report = reader.read()
    times = Durations()
    for microseconds in (8, *[12] * 998, 16):
        times.observe(microseconds / 1_000_000)
    (producer,) = report.producers
    (handler,) = producer.handlers
    fast = msgspec.structs.replace(handler, calls=1000, seconds=durations(times))
    producer = msgspec.structs.replace(producer, handlers=(fast,), publish=durations(times))

    text = shown(msgspec.structs.replace(report, producers=(producer,)))

    assert re.search(r" 1,000 +0 +12 µs +1[12] µs +12 µs ", text), text
    assert "a batch takes 12 µs (p95 12 µs)" in text


def test_a_slot_that_postgres_gave_up_is_shown_as_such(app: Celery, shop: Database) -> None:
    walex = make_walex(app, shop)
    shop.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", ["shop_walex"])
    with StatusReader(walex, "shop", timeout=0.2) as reader:
        report = reader.read()
    assert report.slot is not None
    lost = msgspec.structs.replace(
        report, slot=msgspec.structs.replace(report.slot, wal_status="lost", safe_wal_bytes=0)
    )

    assert "(lost; lost after 0 B more)" in shown(lost)
