"""What Kubernetes' probes get, through everything that a producer goes through."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from celery import Celery

from tests.operations.port import Port, served
from tests.support import Database, wait_until
from tests.support.producers import in_thread, make_app, running
from tests.support.shop import SCHEMA, make_handling
from walex_celery import Event, Producer, Spool, WalEx
from walex_celery.operations.monitor import health
from walex_celery.telemetry.activity import Doing
from walex_celery.testing.servers import Postgres, Valkey


def make_standby(app: Celery, shop: Database, **settings: object) -> WalEx:
    """Another reader of the same slot; of another name, for a process has one producer of each."""
    other = make_app(str(app.conf.broker_url))
    return make_handling(other, shop, name="standby", slot_name="shop_walex", **settings)


def states(port: Port) -> tuple[int, int]:
    """What the two probes answer."""
    return port.get("/healthz").status, port.get("/readyz").status


def test_a_producer_that_streams_is_alive_and_ready(shop: Database, app: Celery) -> None:
    with running(make_handling(app, shop)) as producer, served(producer) as port:
        assert states(port) == (200, 200)
        assert port.get("/readyz").text == "streaming\n"
        assert port.get("/readyz?verbose").status == 200


def test_a_standby_is_ready_and_says_that_it_stands_by(shop: Database, app: Celery) -> None:
    """So that a Deployment of two becomes available."""
    standby = Producer(make_standby(app, shop), standby=True)
    with served(standby) as port:
        with running(make_handling(app, shop)), in_thread(standby):
            wait_until(lambda: states(port) == (200, 200), 20)
            assert "standing by" in port.get("/readyz").text
        assert standby.activity.now.doing is Doing.ENDED


def test_a_standby_without_a_broker_is_not_ready(
    shop: Database, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not do the work if it took over; a restart would not help it."""
    monkeypatch.setattr("walex_celery.operations.monitor.observer.INTERVAL_SECONDS", 0.05)
    with Valkey() as valkey:
        standby = Producer(make_standby(make_app(valkey.url(0)), shop), standby=True)
        with running(make_handling(app, shop)), served(standby) as port, in_thread(standby):
            wait_until(lambda: states(port) == (200, 200), 20)
            valkey.kill()
            wait_until(lambda: states(port) == (200, 503), 20)
            assert port.get("/readyz").text == "standing by, but the broker can't be reached\n"
            valkey.start()
            wait_until(lambda: states(port) == (200, 200), 20)


def test_a_handler_may_take_its_time(shop: Database, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart would only begin it again."""
    monkeypatch.setattr(health, "HUNG_SECONDS", 0.0)
    walex = make_handling(app, shop, publish_timeout=0.1, connect_timeout=0.1)
    entered, leave = threading.Event(), threading.Event()

    @walex.on_insert("items")
    def slow(events: list[Event]) -> None:
        entered.set()
        leave.wait(30)

    with running(walex) as producer, served(producer) as port:
        try:
            shop.execute("INSERT INTO items VALUES (1)")
            assert entered.wait(10)
            wait_until(lambda: producer.activity.now.seconds > 0.2)
            assert states(port) == (200, 200)
            assert f"in a handler: {__name__}.slow, for 0 s" in port.get("/healthz").text
        finally:
            leave.set()


def test_a_loop_that_hangs_is_not_alive(shop: Database, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """As nothing in it should: here a look at the settings, under a lock that somebody keeps."""
    monkeypatch.setattr(health, "HUNG_SECONDS", 3.0)
    walex = make_handling(app, shop, publish_timeout=0.1, connect_timeout=0.1)
    with running(walex) as producer, served(producer) as port:
        wait_until(lambda: states(port)[0] == 200)
        # What the reading thread needs.
        with producer._session.stream._stream._lock:  # type: ignore[union-attr]
            wait_until(lambda: states(port)[0] == 503, 20)
            text = port.get("/healthz").text
        wait_until(lambda: states(port)[0] == 200)

    assert "has shown no sign of life for" in text
    assert "while streaming" in text


def test_an_idle_producer_shows_signs_of_life(shop: Database, app: Celery) -> None:
    """It looks around every second, however little there is to do."""
    with running(make_handling(app, shop)) as producer:
        for _ in range(2):
            wait_until(lambda: producer.activity.now.seconds > 0.2)
            wait_until(lambda: producer.activity.now.seconds < 0.1)


def test_servers_that_are_away_are_no_reason_for_a_restart(app: Celery) -> None:
    with Postgres() as server, Valkey() as valkey:
        name = server.create_database()
        database = Database(server, name)
        database.execute(SCHEMA)
        walex = make_handling(make_app(valkey.url(0)), database)

        @walex.on_insert("items")
        @walex.app.task(name="shop.notify", shared=False)
        def notify(event: Event) -> None: ...

        with running(walex) as producer, served(producer) as port:
            valkey.kill()
            database.execute("INSERT INTO items VALUES (1)")
            wait_until(lambda: states(port) == (200, 503), 20)
            assert "the broker is unreachable" in port.get("/readyz").text
            valkey.start()
            wait_until(lambda: states(port) == (200, 200), 30)
            server.kill()
            wait_until(lambda: states(port) == (200, 503), 20)
            assert "not streaming" in port.get("/readyz").text
            server.start()
            wait_until(lambda: states(port) == (200, 200), 30)


def test_a_slot_that_waits_for_an_open_transaction(
    shop: Database, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres makes it when that has ended, after hours if need be: not ready, and not to be restarted."""
    monkeypatch.setattr(health, "HUNG_SECONDS", 0.0)
    producer = Producer(make_handling(app, shop, publish_timeout=0.1, connect_timeout=0.1))
    session = shop.connect()
    session.autocommit = False
    try:
        with session.cursor() as cursor:
            cursor.execute("INSERT INTO items VALUES (1)")
        with served(producer) as port, in_thread(producer):
            wait_until(lambda: producer.activity.now.doing is Doing.CREATING_SLOT)
            wait_until(lambda: producer.activity.now.seconds > 0.2)
            assert states(port) == (200, 503)
            assert port.get("/readyz").text == "not streaming: creating the slot\n"
            session.commit()
            wait_until(lambda: states(port)[1] == 200)
    finally:
        session.close()


def test_with_a_spool_both_threads_are_watched(
    shop: Database, app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "HUNG_SECONDS", 3.0)
    walex = make_handling(
        app, shop, message_middleware=Spool(tmp_path / "spool"), publish_timeout=0.1, connect_timeout=0.1
    )
    with running(walex) as producer, served(producer) as port:
        wait_until(lambda: states(port) == (200, 200))
        stream = producer._run.source._open.intake._stream  # type: ignore[union-attr]
        with stream._lock:
            wait_until(lambda: states(port)[0] == 503, 20)
            assert "the thread that reads the slot has shown no sign of life" in port.get("/healthz").text
        wait_until(lambda: states(port) == (200, 200))


def test_with_a_spool_a_standby_is_ready_too(shop: Database, app: Celery, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    standby = Producer(make_standby(app, shop, message_middleware=spool), standby=True)
    with running(make_handling(app, shop)), served(standby) as port, in_thread(standby):
        wait_until(lambda: states(port) == (200, 200), 20)
        assert "standing by" in port.get("/readyz").text


def test_a_producer_that_has_ended_is_not_alive(shop: Database, app: Celery) -> None:
    producer = Producer(make_handling(app, shop))
    with served(producer) as port:
        assert states(port) == (200, 503)
        assert port.get("/readyz").text == "not streaming: starting\n"
        with in_thread(producer):
            wait_until(producer.streaming.is_set)
        assert states(port) == (503, 503)
