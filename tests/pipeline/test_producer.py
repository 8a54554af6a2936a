"""The producer's loop: order, acknowledgement, idleness, slow and failing handlers, a broker or Postgres away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from celery import Celery

from tests.broker.support import Proxy
from tests.support import SENDER_TIMEOUT_SECONDS, Database, wait_until
from tests.support.process import producer_process
from tests.support.producers import make_app, running, unconfirmed
from tests.support.queues import drain
from tests.support.shop import SCHEMA, collect, make_enqueuing, make_walex
from tests.support.slots import active, confirmed, drop_slot_in_use, written
from walex_celery import Event, Filters, HandlerError, Producer
from walex_celery.cli import EXIT_SLOT_IN_USE
from walex_celery.errors import SlotLost
from walex_celery.postgres.lsn import Lsn
from walex_celery.telemetry.activity import Doing
from walex_celery.testing.servers import Postgres, Valkey


def insert(database: Database, number: int) -> Lsn:
    """Insert a row; returns where the WAL was before its commit, up to where other WAL may be acknowledged."""
    ((inside,),) = database.execute(
        "INSERT INTO items VALUES (%s); SELECT pg_current_wal_insert_lsn()", (number,)
    )
    return Lsn.parse(inside)


def test_transactions_come_in_commit_order_though_they_were_interleaved(shop: Database, app: Celery) -> None:
    """Promise 2."""
    walex = make_walex(app, shop)
    events = collect(walex)
    sessions = [shop.connect() for _ in range(3)]
    for session in sessions:
        session.autocommit = False
    with running(walex):
        for number in range(30):
            with sessions[number % 3].cursor() as cursor:
                cursor.execute("INSERT INTO items VALUES (%s)", (number,))
        for session in reversed(sessions):
            session.commit()
            session.close()
        wait_until(lambda: len(events) == 30)
    ids = [event.key["id"] for event in events if event.key]
    assert ids == [*range(2, 30, 3), *range(1, 30, 3), *range(0, 30, 3)]
    assert [event.index for event in events] == [*range(10)] * 3
    assert [event.lsn for event in events] == sorted(event.lsn for event in events)


def test_handlers_run_one_at_a_time_in_the_order_registered(shop: Database, app: Celery) -> None:
    """Promise 2."""
    walex = make_walex(app, shop)
    calls: list[str] = []

    @walex.on_update("items")
    def updated(events: list[Event]) -> None:
        calls.append("updated")

    @walex.on_insert("items")
    def inserted(events: list[Event]) -> None:
        calls.append("inserted")

    @walex.on_event("all")
    def anything(events: list[Event]) -> None:
        calls.append("anything")

    with running(walex), shop.connect() as session, session.cursor() as cursor:
        cursor.execute("BEGIN; INSERT INTO items VALUES (1); UPDATE items SET note = 'x'; COMMIT")
        wait_until(lambda: len(calls) == 3)
    assert calls == ["updated", "inserted", "anything"]


def test_a_huge_transaction_comes_in_chunks_that_say_which_is_the_last(shop: Database, app: Celery) -> None:
    """Promise 4."""
    walex = make_walex(app, shop)
    batches: list[list[Event]] = []
    walex.on_insert("items")(batches.append)
    with running(walex):
        shop.execute("INSERT INTO items SELECT generate_series(1, 2500)")
        wait_until(lambda: sum(map(len, batches)) == 2500)
    assert [len(batch) for batch in batches] == [1000, 1000, 500]
    assert [batch[0].transaction.chunk for batch in batches] == [0, 1, 2]
    assert [batch[0].transaction.last for batch in batches] == [False, False, True]
    assert [event.index for batch in batches for event in batch] == [*range(2500)]


def test_nothing_is_acknowledged_while_a_handler_runs(shop: Database, app: Celery) -> None:
    """Promise 1."""
    walex = make_walex(app, shop)
    entered, leave = threading.Event(), threading.Event()

    @walex.on_insert("items")
    def slow(events: list[Event]) -> None:
        entered.set()
        assert leave.wait(20)

    with running(walex):
        inside = insert(shop, 1)
        after = written(shop)
        assert entered.wait(10)
        threading.Event().wait(1.5)
        assert confirmed(shop) <= inside
        leave.set()
        wait_until(lambda: confirmed(shop) >= after)


def test_a_failing_handler_halts_and_its_transaction_comes_again(shop: Database, app: Celery) -> None:
    """Promise 1: not acknowledged, nothing of it enqueued; what came before it is done and does not come again."""
    walex = make_walex(app, shop)
    seen: list[int] = []
    broken = True

    @walex.on_insert("items", functions=["shop.tasks.index"])
    def fragile(events: list[Event]) -> None:
        for event in events:
            assert event.key
            if event.key["id"] == 3 and broken:
                raise ZeroDivisionError("the third")
            seen.append(event.key["id"])

    shop.execute("SELECT pg_create_logical_replication_slot('shop_walex', 'pgoutput')")
    for number in range(1, 6):
        shop.execute("INSERT INTO items VALUES (%s)", (number,))
    with (
        pytest.raises(HandlerError, match=r"fragile failed on 1 event.*LSN") as caught,
        running(walex) as producer,
    ):
        wait_until(lambda: producer.activity.now.doing is Doing.ENDED, 20)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert seen == [1, 2]
    queued = drain(app.conf.broker_url, "celery")
    assert [task.event.key for task in queued] == [{"id": 1}, {"id": 2}]
    broken = False
    with running(walex):
        wait_until(lambda: len(seen) == 5)
    assert seen == [1, 2, 3, 4, 5]


def test_unpublished_writes_never_make_the_slot_hold_wal(shop: Database, app: Celery) -> None:
    """Promise 5, also with a publication whose events are all filtered out."""
    walex = make_walex(app, shop)
    events: list[list[Event]] = []
    walex.on_insert("items", Filters(unwatched_records={"note": "quiet"}))(events.append)
    with running(walex):
        for _ in range(3):
            shop.execute("INSERT INTO unpublished SELECT generate_series(1, 20000)")
            end = written(shop)
            wait_until(lambda: confirmed(shop) >= end)  # noqa: B023
        shop.execute("INSERT INTO items SELECT g, 'quiet' FROM generate_series(1, 2000) g")
        end = written(shop)
        wait_until(lambda: confirmed(shop) >= end)
    assert events == []


def test_a_broker_that_is_away_stops_nothing_but_delivery(
    shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Promises 1 and 6: said, survived without a restart, nothing lost, order kept."""
    with Valkey() as broker:
        app = make_app(broker.url())
        walex = make_walex(app, shop)

        @walex.on_insert("items")
        @app.task(name="index")
        def index(event: Event) -> None: ...

        with caplog.at_level(logging.WARNING, "walex_celery"), running(walex):
            shop.execute("INSERT INTO items VALUES (1)")
            wait_until(lambda: confirmed(shop) >= written(shop))
            broker.kill()
            inside = insert(shop, 2)
            for number in range(3, 50):
                insert(shop, number)
            wait_until(lambda: "trying again" in caplog.text)
            assert confirmed(shop) <= inside
            assert active(shop)
            broker.start()
            end = written(shop)
            wait_until(lambda: confirmed(shop) >= end, 30)
        queued = drain(broker.url(), "celery")
    ids = list(dict.fromkeys(task.event.key["id"] for task in queued if task.event.key))
    assert ids == [*range(1, 50)]


def stalled(producer: Producer) -> bool:
    """Whether it has written tasks and waits for the broker."""
    return unconfirmed(producer) > 0 and producer.activity.now.doing in (Doing.BROKER, Doing.BROKER_DOWN)


def test_nothing_is_acknowledged_before_the_broker_has_confirmed(
    shop: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 1: written is not enough."""
    monkeypatch.setattr("walex_celery.postgres.stream.ACKNOWLEDGE_INTERVAL", 0)
    port = urlsplit(redis_url).port or 0
    with Proxy(port) as proxy:
        walex = make_enqueuing(make_app(redis_url.replace(f":{port}", f":{proxy.port}")), shop)
        with running(walex) as producer:
            shop.execute("INSERT INTO items VALUES (1)")
            wait_until(lambda: confirmed(shop) >= written(shop))
            proxy.stall()
            inside = insert(shop, 2)
            wait_until(lambda: stalled(producer))
            assert confirmed(shop) <= inside
            proxy.flow()
            end = written(shop)
            wait_until(lambda: confirmed(shop) >= end, 30)


def test_what_is_on_its_way_when_the_connection_breaks_is_not_read_twice(
    shop: Database, redis_url: str
) -> None:
    """It is confirmed first, however long that takes."""
    port = urlsplit(redis_url).port or 0
    seen: list[int] = []
    with Proxy(port) as proxy:
        walex = make_walex(make_app(redis_url.replace(f":{port}", f":{proxy.port}")), shop)

        @walex.on_insert("items", functions=["shop.index"])
        def inserted(events: list[Event]) -> None:
            seen.extend(event.new_record["id"] for event in events)
            if seen == [1]:
                # Noticed at the next read: by then the tasks are written.
                shop.execute(
                    "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active"
                )

        with running(walex) as producer:
            proxy.stall()
            shop.execute("INSERT INTO items VALUES (1)")
            wait_until(lambda: stalled(producer) and not active(shop))
            proxy.flow()
            shop.execute("INSERT INTO items VALUES (2)")
            end = written(shop)
            wait_until(lambda: confirmed(shop) >= end, 30)
            assert producer.statistics.connects == 2
    assert seen == [1, 2]
    assert [task.event.key for task in drain(redis_url, "celery")] == [{"id": 1}, {"id": 2}]


def test_another_database_is_read_from_its_slot_s_own_position(shop: Database, app: Celery) -> None:
    """What was done in the first one, at later positions of the same WAL, says nothing of it (promise 1)."""
    other = Database(shop.server, shop.server.create_database())
    other.execute(SCHEMA)
    other.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [other.name])
    other.execute("INSERT INTO items VALUES (10)")
    walex = make_walex(app, shop)
    seen: list[int] = []

    @walex.on_insert("items")
    def inserted(events: list[Event]) -> None:
        seen.extend(event.new_record["id"] for event in events)
        if seen == [1]:
            # Both together: they are applied when this transaction is done.
            walex.replace_config("database", other.name)
            walex.replace_config("slot_name", other.name)

    try:
        with running(walex):
            shop.execute("INSERT INTO items VALUES (1)")
            wait_until(lambda: len(seen) == 2, 20)
            other.execute("INSERT INTO items VALUES (11)")
            wait_until(lambda: len(seen) == 3, 20)
    finally:
        shop.server.drop_database(other.name)
    assert seen == [1, 10, 11]


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    with Postgres(settings={"wal_sender_timeout": f"{SENDER_TIMEOUT_SECONDS}s"}) as server:
        yield server


@pytest.mark.parametrize("way", ["fast", "immediate", "kill"])
def test_postgres_may_go_and_come_back(own_postgres: Postgres, redis_url: str, way: str) -> None:
    """Promise 1: a restart or crash of Postgres costs nothing but time."""
    database = Database(own_postgres, own_postgres.create_database())
    database.execute(SCHEMA)
    walex = make_walex(make_app(redis_url), database)
    events = collect(walex)
    with running(walex):
        database.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: len(events) == 1)
        if way == "kill":
            own_postgres.kill()
        else:
            own_postgres.stop("fast" if way == "fast" else "immediate")
        own_postgres.start()
        database.execute("INSERT INTO items VALUES (2)")
        wait_until(lambda: events[-1].key == {"id": 2}, 30)
    keys = [event.key for event in events]
    assert list(dict.fromkeys(str(key) for key in keys)) == ["{'id': 1}", "{'id': 2}"]


def test_a_handler_longer_than_wal_sender_timeout_keeps_the_connection(
    own_postgres: Postgres, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 6: three times as long, while more than the socket's buffers hold is waiting to be read."""
    database = Database(own_postgres, own_postgres.create_database())
    database.execute(SCHEMA)
    walex = make_walex(make_app(redis_url), database)
    seen: list[Event] = []

    @walex.on_insert("items")
    def slow(events: list[Event]) -> None:
        if not seen:
            threading.Event().wait(3 * SENDER_TIMEOUT_SECONDS + 0.5)
        seen.extend(events)

    with caplog.at_level(logging.WARNING, "walex_celery"), running(walex):
        pid = database.execute("SELECT active_pid FROM pg_replication_slots")
        database.execute("INSERT INTO items VALUES (0)")
        database.execute("INSERT INTO items SELECT g, repeat('x', 2000) FROM generate_series(1, 20000) g")
        wait_until(lambda: len(seen) == 20_001, 34 + 3 * SENDER_TIMEOUT_SECONDS)
        assert database.execute("SELECT active_pid FROM pg_replication_slots") == pid
    assert "trying again" not in caplog.text


def test_a_terminated_backend_is_replaced(shop: Database, app: Celery) -> None:
    walex = make_walex(app, shop)
    events = collect(walex)
    with running(walex):
        shop.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: len(events) == 1, 20)


def test_a_durable_slot_that_is_dropped_is_an_error_and_not_made_again(shop: Database, app: Celery) -> None:
    """Promise 1: a new slot would begin after what was committed meanwhile, unnoticed."""
    walex = make_walex(app, shop)
    events = collect(walex)

    def drop_it_while_it_is_read() -> None:
        with running(walex) as producer:
            shop.execute("INSERT INTO items VALUES (1)")
            wait_until(lambda: len(events) == 1)
            drop_slot_in_use(shop)
            wait_until(lambda: producer.activity.now.doing is Doing.ENDED, 20)

    with pytest.raises(SlotLost, match="backfill"):
        drop_it_while_it_is_read()
    assert not shop.execute("SELECT 1 FROM pg_replication_slots WHERE database = current_database()")


def test_one_durable_slot_one_producer_and_a_standby_takes_over(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    """Promises 1 and 8, between processes: kill -9 the one that streams."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE items")
    with producer_process(database, redis_url, tmp_path / "leader.log") as leader:
        wait_until(lambda: active(database), 30)
        with producer_process(database, redis_url, tmp_path / "second.log") as second:
            assert second.wait(30) == EXIT_SLOT_IN_USE
        assert "--standby" in (tmp_path / "second.log").read_text()
        with producer_process(database, redis_url, tmp_path / "standby.log", "--standby") as standby:
            wait_until(lambda: "standing by" in (tmp_path / "standby.log").read_text(), 30)
            leader.kill()
            database.execute("INSERT INTO items VALUES (1)")
            end = written(database)
            wait_until(lambda: confirmed(database) >= end, 30)
            standby.terminate()
            assert standby.wait(20) == 0
    assert [task.event.key for task in drain(redis_url, "crash")] == [{"id": 1}]


def test_confirmed_lsn_is_the_end_of_what_was_done(shop: Database, app: Celery) -> None:
    walex = make_walex(app, shop)
    events = collect(walex)
    with running(walex) as producer:
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: producer.confirmed_lsn > Lsn(0))
        assert producer.confirmed_lsn > events[0].lsn
