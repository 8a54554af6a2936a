"""What Prometheus scrapes from a running producer."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

import pytest
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from tests.operations.port import served
from tests.support import Database, shop, wait_until
from tests.support.producers import in_thread, make_app, running
from walex_celery import ConfigurationError, Event, Filters, HandlerError, Producer, Spool, WalEx
from walex_celery.operations.monitor import http_server as monitoring_module
from walex_celery.operations.monitor.http_server import monitoring
from walex_celery.testing.servers import Valkey


def make_walex(app: Celery, database: Database, **settings: object) -> WalEx:
    return shop.make_walex(app, database, **({"subscriptions": ["items", "sales.orders"]} | settings))


def make_handling(app: Celery, database: Database, **settings: object) -> WalEx:
    return shop.make_handling(app, database, **({"subscriptions": ["items", "sales.orders"]} | settings))


def test_what_was_done_is_counted(shop: Database, app: Celery) -> None:
    walex = make_walex(app, shop)

    @app.task(name="shop.notify", shared=False)
    def notify(event: Event) -> None: ...

    @walex.on_event("items", Filters(unwatched_records={"note": "quiet"}), [notify])
    def changed(events: list[Event]) -> None: ...

    @walex.on_insert("sales.orders")
    def ordered(events: list[Event]) -> None: ...

    with running(walex) as producer, served(producer) as port:
        shop.execute("INSERT INTO items VALUES (1, 'a'), (2, 'b'), (3, 'quiet')")
        # Transactions that are there together are one batch.
        wait_until(lambda: producer.statistics.publish.count == 1)
        shop.execute("UPDATE items SET note = 'c' WHERE id < 3")
        shop.execute("INSERT INTO sales.orders VALUES (1)")
        wait_until(lambda: producer.statistics.publish.count >= 2 and not _unconfirmed(producer))
        wait_until(lambda: producer.statistics.transactions == 3 and "walex_slot_active" in port.samples())
        samples = port.samples()

    assert samples["walex_events_total{table=items,type=insert}"] == 2
    assert samples["walex_events_total{table=items,type=update}"] == 2
    assert samples["walex_events_total{table=sales.orders,type=insert}"] == 1
    assert samples["walex_events_filtered_total{table=items,type=insert}"] == 1
    assert samples["walex_events_filtered_total{table=items,type=update}"] == 0
    assert samples["walex_transactions_total"] == 3
    assert samples["walex_messages_total"] > 6
    assert samples["walex_tasks_published_total{task=shop.notify}"] == 4
    assert samples["walex_unconfirmed_tasks"] == samples["walex_unconfirmed_bytes"] == 0
    assert samples[f"walex_handler_seconds_count{{handler={__name__}.changed}}"] == 2
    assert samples[f"walex_handler_events_total{{handler={__name__}.changed}}"] == 4
    assert samples["walex_publish_seconds_count"] >= 2
    assert samples["walex_publish_seconds_bucket{le=+Inf}"] == samples["walex_publish_seconds_count"]
    assert samples["walex_publish_seconds_sum"] > 0
    assert samples["walex_connects_total"] == 1
    assert samples["walex_streaming"] == samples["walex_broker_up"] == samples["walex_postgres_up"] == 1
    assert samples["walex_slot_active"] == 1
    assert samples["walex_slot_lost"] == 0
    assert samples["process_resident_memory_bytes"] > 2**20
    assert "walex_spool_bytes" not in samples


def test_buckets_are_cumulative(shop: Database, app: Celery) -> None:
    walex = make_walex(app, shop)

    @walex.on_insert("items")
    def inserted(events: list[Event]) -> None: ...

    with running(walex) as producer, served(producer) as port:
        assert port.samples()[f"walex_handler_errors_total{{handler={__name__}.inserted}}"] == 0
        tally = producer.statistics.handler("slow")
        for seconds in (0.0005, 0.02, 0.02, 100):
            tally.returned(1, seconds)
        samples = port.samples()

    buckets = {
        name: value for name, value in samples.items() if name.startswith("walex_handler_seconds_bucket")
    }
    assert buckets["walex_handler_seconds_bucket{handler=slow,le=0.001}"] == 1
    assert buckets["walex_handler_seconds_bucket{handler=slow,le=0.025}"] == 3
    assert buckets["walex_handler_seconds_bucket{handler=slow,le=60.0}"] == 3
    assert buckets["walex_handler_seconds_bucket{handler=slow,le=+Inf}"] == 4


def with_retained(samples: dict[str, float]) -> dict[str, float] | None:
    """*samples* if the slot keeps at least the WAL that is not acknowledged."""
    return samples if samples["walex_slot_retained_bytes"] >= samples["walex_lag_bytes"] else None


def test_the_lag_grows_while_a_handler_hangs(
    shop: Database, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The producer's thread is stuck, and the numbers that tell of it move on."""
    monkeypatch.setattr("walex_celery.operations.monitor.observer.INTERVAL_SECONDS", 0.05)
    walex = make_walex(app, shop)
    entered, leave = threading.Event(), threading.Event()

    @walex.on_insert("items")
    def stuck(events: list[Event]) -> None:
        entered.set()
        leave.wait(30)

    running_for = f"walex_handler_running_seconds{{handler={__name__}.stuck}}"
    with running(walex) as producer, served(producer) as port:
        try:
            wait_until(lambda: port.samples().get("walex_lag_seconds") == 0)
            shop.execute("INSERT INTO items VALUES (1)")
            assert entered.wait(10)
            # Lag and retained WAL are measured by two threads.
            before = wait_until(lambda: with_retained(port.samples()))
            shop.execute("INSERT INTO items SELECT generate_series(2, 2000)")
            wait_until(lambda: port.samples()["walex_lag_bytes"] > before["walex_lag_bytes"] + 50_000)
            wait_until(lambda: port.samples()["walex_lag_seconds"] > 0.3)
            later = port.samples()
        finally:
            leave.set()
        wait_until(lambda: port.samples()["walex_lag_bytes"] < 10_000, 20)
        wait_until(lambda: port.samples()["walex_lag_seconds"] == 0)
        after = port.samples()

    assert 0 <= before[running_for] < later[running_for]
    assert before["walex_state{state=handler}"] == 1
    assert sum(value for name, value in before.items() if name.startswith("walex_state")) == 1
    assert running_for not in after


def test_a_handler_that_raises_is_counted(shop: Database, app: Celery) -> None:
    walex = make_walex(app, shop)

    @walex.on_insert("items")
    def failing(events: list[Event]) -> None:
        raise ValueError("the handler's own words")

    producer = Producer(walex)
    with served(producer) as port:
        with in_thread(producer) as failures:
            wait_until(producer.streaming.is_set)
            shop.execute("INSERT INTO items VALUES (1)")
            wait_until(lambda: failures)
            assert isinstance(failures.pop(), HandlerError)
        samples = port.samples()

    assert samples[f"walex_handler_errors_total{{handler={__name__}.failing}}"] == 1
    assert samples["walex_state{state=ended}"] == 1


def test_tasks_that_wait_for_the_broker(shop: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Of a broker of the test's own, which goes away."""
    with Valkey() as valkey:
        app = make_app(valkey.url(0))
        walex = make_walex(app, shop)

        @walex.on_insert("items")
        @app.task(name="shop.notify", shared=False)
        def notify(event: Event) -> None: ...

        with running(walex) as producer, served(producer) as port:
            valkey.kill()
            shop.execute("INSERT INTO items VALUES (1), (2)")
            wait_until(lambda: port.samples()["walex_broker_up"] == 0, 20)
            wait_until(lambda: port.samples()["walex_lag_seconds"] > 0)
            samples = port.samples()
            valkey.start()
            wait_until(lambda: port.samples()["walex_unconfirmed_tasks"] == 0, 30)
            assert port.samples()["walex_broker_up"] == 1

    away = next(record for record in caplog.records if "trying again" in record.message)
    assert vars(away).items() >= {"slot": "shop_walex", "error": "BrokerUnavailable"}.items()
    assert "/" in vars(away)["lsn"]
    assert samples["walex_unconfirmed_tasks"] == 2
    assert samples["walex_unconfirmed_bytes"] > 200


def test_dead_letters_that_wait(shop: Database, app: Celery, tmp_path: Path) -> None:
    walex = make_walex(app, shop, dead_letters=str(tmp_path / "letters.sqlite"), on_error="dead_letter")

    @walex.on_insert("items")
    def failing(events: list[Event]) -> None:
        raise ValueError("the handler's own words")

    with running(walex) as producer:
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: producer.statistics.transactions == 1)
        with served(producer) as port:
            wait_until(lambda: port.samples().get("walex_dead_letters") == 1)


def test_what_waits_in_the_spool(shop: Database, app: Celery, tmp_path: Path) -> None:
    walex = make_walex(app, shop, message_middleware=Spool(tmp_path / "spool"))
    entered, leave = threading.Event(), threading.Event()

    @walex.on_insert("items")
    def stuck(events: list[Event]) -> None:
        entered.set()
        leave.wait(30)

    with running(walex) as producer, served(producer) as port:
        try:
            shop.execute("INSERT INTO items VALUES (1)")
            assert entered.wait(10)
            shop.execute("INSERT INTO items SELECT generate_series(2, 500)")
            wait_until(lambda: port.samples()["walex_spool_bytes"] > 10_000)
        finally:
            leave.set()
        wait_until(lambda: port.samples()["walex_spool_bytes"] < 10_000)


def test_several_instances_share_a_port(shop: Database, app: Celery) -> None:
    walexes = [make_handling(app, shop, name=name) for name in ("one", "two")]
    with running(walexes[0]) as one, running(walexes[1]) as two, served(one, two) as port:
        families = list(text_string_to_metric_families(port.get("/metrics").text))

    assert len({family.name for family in families}) == len(families), "a family comes once"
    [streaming] = [family for family in families if family.name == "walex_streaming"]
    assert {sample.labels["name"]: sample.value for sample in streaming.samples} == {"one": 1, "two": 1}


def test_names_and_units_follow_the_convention(shop: Database, app: Celery) -> None:
    with running(make_handling(app, shop)) as producer, served(producer) as port:
        wait_until(lambda: "walex_lag_bytes" in port.samples())
        text = port.get("/metrics").text
        openmetrics = port.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")

    families = {family.name: family for family in text_string_to_metric_families(text)}
    ours = {name: family for name, family in families.items() if name.startswith("walex_")}
    assert len(ours) > 20
    for name, family in ours.items():
        assert family.documentation.endswith("."), name
        assert all(sample.labels["name"] == "shop" for sample in family.samples), name
        for word in ("ms", "millis", "kb", "minutes"):
            assert word not in name.split("_"), name
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), name
    assert openmetrics.content_type.startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


def test_a_port_in_use_is_one_clear_error(shop: Database, app: Celery) -> None:
    producer = Producer(make_walex(app, shop))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError) as raised, monitoring([producer], host="127.0.0.1", port=port):
            pass

    assert f"127.0.0.1:{port}: Address already in use" in str(raised.value)
    assert "--metrics-port" in str(raised.value)


def test_without_the_extra_only_metrics_are_missing(
    shop: Database, app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # As import does where the package is not installed.
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "walex_celery.operations.monitor.metrics")
    with running(make_handling(app, shop)) as producer, served(producer) as port:
        metrics, health, ready = (port.get(path) for path in ("/metrics", "/healthz", "/readyz"))

    assert (metrics.status, health.status, ready.status) == (501, 200, 200)
    assert "pip install 'walex-celery[metrics]'" in metrics.text
    assert "pip install 'walex-celery[metrics]'" in caplog.text


def test_clients_that_say_nothing_do_not_keep_others_out(shop: Database, app: Celery) -> None:
    with running(make_handling(app, shop)) as producer, served(producer) as port:
        silent = [socket.create_connection(port.address) for _ in range(5)]
        try:
            assert port.get("/healthz").status == 200
        finally:
            for client in silent:
                client.close()
        assert port.get("/nothing").status == 404


def test_slow_clients_keep_no_probe_out(shop: Database, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring_module, "CLIENT_SECONDS", 1000.0)
    with running(make_handling(app, shop)) as producer, served(producer) as port:
        slow = [socket.create_connection(port.address) for _ in range(2 * monitoring_module.CONNECTIONS)]
        try:
            for client in slow:
                client.sendall(b"GET /healthz HTTP/1.0\r\nX: ")  # and no end
            for _ in range(20):
                assert port.get("/healthz").status == 200
                assert port.get("/readyz").status == 200
            wait_until(lambda: _open(slow) < monitoring_module.CONNECTIONS)
        finally:
            for client in slow:
                client.close()


def test_a_client_has_one_deadline_however_it_trickles(
    shop: Database, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring_module, "CLIENT_SECONDS", 0.5)
    with (
        running(make_handling(app, shop)) as producer,
        served(producer) as port,
        socket.create_connection(port.address) as client,
    ):
        client.sendall(b"GET /healthz HTTP/1.0\r\nX: ")

        def ended() -> bool:
            try:
                client.sendall(b"x")
            except OSError:
                return True
            return not _open([client])

        wait_until(ended)


def _open(clients: list[socket.socket]) -> int:
    """How many the server has not closed; none has got an answer."""
    found = 0
    for client in clients:
        client.setblocking(False)
        try:
            client.recv(1)
        except BlockingIOError:
            found += 1
        except OSError:
            pass
        client.setblocking(True)
    return found


def _unconfirmed(producer: Producer) -> int:
    status = producer.snapshot()
    assert status is not None
    return status.unconfirmed_tasks
