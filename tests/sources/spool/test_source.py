"""A producer with a spool: what Postgres may forget, what processing gets, and who may have it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from tests.sources.spool.support import segments
from tests.support import SENDER_TIMEOUT_SECONDS, Database, shop, wait_until
from tests.support.process import producer_process
from tests.support.producers import make_app, running
from tests.support.queues import drain
from tests.support.shop import SCHEMA
from tests.support.slots import active, confirmed, drop_slot_in_use, written
from walex_celery import Event, HandlerError, SpoolError, WalEx
from walex_celery.cli import EXIT_SLOT_IN_USE
from walex_celery.errors import BrokerUnavailable, SlotLost
from walex_celery.sources.spool import Spool
from walex_celery.testing.servers import Postgres, Valkey

SMALL = 2**20


def make_walex(app: Celery, database: Database, folder: Path, **settings: object) -> WalEx:
    return shop.make_walex(
        app, database, **({"message_middleware": Spool(folder, max_bytes=SMALL)} | settings)
    )


def collect(walex: WalEx) -> list[int]:
    """The ids of the rows that a batch handler got."""
    ids: list[int] = []

    @walex.on_insert("items")
    def collected(events: list[Event]) -> None:
        ids.extend(event.key["id"] for event in events if event.key)

    return ids


def insert(database: Database, *numbers: int, note: str = "") -> None:
    """Each in a transaction of its own."""
    connection = database.connect()
    with connection.cursor() as cursor:
        for number in numbers:
            cursor.execute("INSERT INTO items VALUES (%s, %s)", (number, note))
    connection.close()


def wait_until_forgotten(database: Database, timeout: float = 20) -> None:
    """Until Postgres may forget everything written so far."""
    end = written(database)
    wait_until(lambda: confirmed(database) >= end, timeout, "the slot moves on")


def test_while_the_broker_is_away_postgres_may_forget_and_nothing_is_lost(
    shop: Database, tmp_path: Path
) -> None:
    """Promises 1 and 2, also when the producer is started again meanwhile, or its connection breaks."""
    with Valkey() as broker:
        app = make_app(broker.url())
        walex = make_walex(app, shop, tmp_path / "spool")

        @walex.on_insert("items")
        @app.task(name="index")
        def index(event: Event) -> None: ...

        def run_until_the_broker_is_away() -> None:
            with running(walex):
                insert(shop, 1)
                wait_until_forgotten(shop)
                broker.kill()
                insert(shop, *range(2, 200))
                wait_until_forgotten(shop)
                shop.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
                insert(shop, *range(200, 300))
                wait_until_forgotten(shop)

        with pytest.raises(BrokerUnavailable, match="stopped with"):
            run_until_the_broker_is_away()
        with running(walex):
            insert(shop, *range(300, 400))
            wait_until_forgotten(shop)
            broker.start()
            insert(shop, 400)
            with broker.client() as client:
                wait_until(lambda: b"items id=400 " in (client.lindex("celery", 0) or b""), 40)
        queued = drain(broker.url(), "celery")
    ids = [task.event.key["id"] for task in queued if task.event.key]
    assert list(dict.fromkeys(ids)) == [*range(1, 401)]


def test_unpublished_writes_never_make_the_slot_hold_wal(shop: Database, app: Celery, tmp_path: Path) -> None:
    """Promise 5, with a handler that never comes back as well."""
    walex = make_walex(app, shop, tmp_path)
    entered, leave = threading.Event(), threading.Event()

    @walex.on_insert("items")
    def slow(events: list[Event]) -> None:
        entered.set()
        assert leave.wait(30)

    with running(walex):
        for _ in range(2):
            shop.execute("INSERT INTO unpublished SELECT generate_series(1, 20000)")
            wait_until_forgotten(shop)
            insert(shop, *range(1 + entered.is_set(), 2 + entered.is_set()))
            assert entered.wait(10)
            wait_until_forgotten(shop)
        leave.set()


def test_a_stopped_producer_goes_on_where_it_was(shop: Database, app: Celery, tmp_path: Path) -> None:
    """Promise 3: no event comes twice; and rows are read that were described to the process before."""
    walex = make_walex(app, shop, tmp_path)
    ids: list[int] = []
    stop_at: list[int] = [50]

    @walex.on_insert("items")
    def collected(events: list[Event]) -> None:
        for event in events:
            assert event.key
            assert event.new_record
            assert event.new_record["note"] == "x"
            ids.append(event.key["id"])
        if stop_at and ids[-1] >= stop_at[0]:
            stop_at.clear()
            producer.stop()

    with running(walex):
        pass
    insert(shop, *range(100), note="x")
    with running(walex) as producer:
        wait_until(lambda: not producer.streaming.is_set())
    assert ids == [*range(51)]
    waiting = segments(tmp_path)[-1].stat().st_size
    shop.execute("ALTER TABLE items ADD later int DEFAULT 5")
    with running(walex) as producer:
        wait_until(lambda: len(ids) >= 100)
    assert ids == [*range(100)]
    assert waiting > 0


def test_a_failed_handler_s_transaction_waits_in_the_spool(
    shop: Database, app: Celery, tmp_path: Path
) -> None:
    """Promise 1: Postgres has forgotten it, and it comes again."""
    walex = make_walex(app, shop, tmp_path)
    ids: list[int] = []
    broken = True

    @walex.on_insert("items")
    def fragile(events: list[Event]) -> None:
        for event in events:
            assert event.key
            if event.key["id"] == 3 and broken:
                raise ZeroDivisionError("the third")
            ids.append(event.key["id"])

    shop.execute("SELECT pg_create_logical_replication_slot('shop_walex', 'pgoutput')")
    insert(shop, *range(1, 6))
    with pytest.raises(HandlerError, match="fragile failed"), running(walex) as producer:
        wait_until(lambda: not producer.streaming.is_set(), 20)
    assert ids == [1, 2]
    broken = False
    with running(walex):
        wait_until_forgotten(shop)
        wait_until(lambda: len(ids) == 5)
    assert ids == [1, 2, 3, 4, 5]


def test_a_full_spool_stops_reading_and_goes_on_when_there_is_room(
    shop: Database, app: Celery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 4, on disk: said once an interval, the connection kept alive."""
    shop.execute(f"ALTER DATABASE \"{shop.name}\" SET wal_sender_timeout = '{SENDER_TIMEOUT_SECONDS}s'")
    # Once an interval is what it may be said: one, then, is longer than the wait below.
    walex = make_walex(app, shop, tmp_path, log_interval=60)
    ids: list[int] = []
    leave = threading.Event()

    @walex.on_insert("items")
    def slow(events: list[Event]) -> None:
        assert leave.wait(60)
        ids.extend(event.key["id"] for event in events if event.key)

    count = 3 * SMALL // 1000
    with caplog.at_level(logging.INFO, "walex_celery.spool"), running(walex):
        backend = shop.execute("SELECT active_pid FROM pg_replication_slots WHERE active")
        insert(shop, *range(count), note="x" * 1000)
        wait_until(lambda: "is full" in caplog.text, 20)
        threading.Event().wait(2.5 * SENDER_TIMEOUT_SECONDS)
        assert confirmed(shop) < written(shop)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2 * SMALL
        assert caplog.text.count("is full") == 1
        assert shop.execute("SELECT active_pid FROM pg_replication_slots WHERE active") == backend
        leave.set()
        wait_until(lambda: len(ids) == count, 30)
        wait_until_forgotten(shop)
    assert ids == [*range(count)]
    assert "has room again" in caplog.text
    assert len(segments(tmp_path)) == 1


def test_a_transaction_larger_than_the_spool_goes_through(
    shop: Database, app: Celery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    walex = make_walex(app, shop, tmp_path)
    ids = collect(walex)
    with running(walex):
        insert(shop, 0)
        shop.execute("INSERT INTO items SELECT g, repeat('x', 1000) FROM generate_series(1, 20000) g")
        insert(shop, 20001)
        wait_until(lambda: len(ids) == 20002, 30)
        wait_until_forgotten(shop)
    assert ids == [*range(20002)]
    assert "a single transaction is larger than that" in caplog.text
    assert len(segments(tmp_path)) == 1


@pytest.mark.parametrize("max_bytes", [SMALL, 1 << 30], ids=["in many segments", "in one"])
def test_a_full_disk_is_said_and_waited_for(
    shop: Database, app: Celery, tiny_disk: Path, caplog: pytest.LogCaptureFixture, max_bytes: int
) -> None:
    spool = Spool(tiny_disk / "spool", max_bytes=max_bytes)
    walex = make_walex(app, shop, tiny_disk / "spool", message_middleware=spool)
    ids: list[int] = []
    leave = threading.Event()

    @walex.on_insert("items")
    def slow(events: list[Event]) -> None:
        assert leave.wait(60)
        ids.extend(event.key["id"] for event in events if event.key)

    with running(walex):
        # Longer than what a last block has left, which the beginning of its transaction finds room in.
        insert(shop, *range(500), note="x" * 3900)
        wait_until(lambda: "the disk has no room" in caplog.text, 20)
        # Transactions that are stored are forgotten, the others not.
        assert confirmed(shop) < written(shop)
        leave.set()
        wait_until(lambda: len(ids) == 500, 30)
        wait_until_forgotten(shop)
    assert ids == [*range(500)]


def test_one_spool_one_producer_and_a_standby_takes_over(
    database: Database, redis_url: str, crash_spool: Path, tmp_path: Path
) -> None:
    """Promise 8, between processes: the second is refused, or waits until the first is killed."""
    database.execute("CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE items")
    with producer_process(database, redis_url, tmp_path / "leader.log") as leader:
        wait_until(lambda: active(database), 30)
        with producer_process(database, redis_url, tmp_path / "second.log") as second:
            assert second.wait(30) == EXIT_SLOT_IN_USE
        output = (tmp_path / "second.log").read_text()
        assert f"the spool in {crash_spool} is in use by the producer with process id {leader.pid}" in output
        log = tmp_path / "standby.log"
        with producer_process(database, redis_url, log, "--standby") as standby:
            wait_until(lambda: "standing by" in log.read_text(), 30)
            leader.kill()
            database.execute("INSERT INTO items VALUES (1)")
            wait_until(lambda: "streaming from" in log.read_text(), 30)
            with Redis.from_url(redis_url) as client:
                wait_until(lambda: client.llen("crash"), 30)
            standby.terminate()
            assert standby.wait(30) == 0, log.read_text()
    assert {task.event.key["id"] for task in drain(redis_url, "crash") if task.event.key} == {1}


def test_a_spool_of_another_slot_is_refused(shop: Database, app: Celery, tmp_path: Path) -> None:
    first, other = make_walex(app, shop, tmp_path), make_walex(app, shop, tmp_path, name="other")
    for walex in (first, other):
        collect(walex)
    with running(first):
        pass

    with pytest.raises(SpoolError, match="is of slot 'shop_walex'"), running(other):
        pass
    assert not shop.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = 'other_walex'")


def test_a_damaged_spool_is_an_error_with_file_and_offset(
    shop: Database, app: Celery, tmp_path: Path
) -> None:
    walex = make_walex(app, shop, tmp_path)
    collect(walex)
    with running(walex):
        insert(shop, *range(10))
        wait_until_forgotten(shop)
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(SpoolError, match=rf"{path} is damaged at offset \d+"), running(walex):
        pass


def test_a_slot_that_is_dropped_is_an_error_after_what_was_stored_is_done(
    shop: Database, app: Celery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    walex = make_walex(app, shop, tmp_path)
    ids: list[int] = []
    leave = threading.Event()

    @walex.on_insert("items")
    def slow(events: list[Event]) -> None:
        assert leave.wait(30)
        ids.extend(event.key["id"] for event in events if event.key)

    def drop_it_while_it_is_read() -> None:
        with running(walex) as producer:
            insert(shop, *range(20))
            wait_until_forgotten(shop)
            drop_slot_in_use(shop)
            wait_until(lambda: "nothing is read any more" in caplog.text, 20)
            leave.set()
            wait_until(lambda: len(ids) == 20)
            assert not producer.streaming.is_set()

    with pytest.raises(SlotLost, match="backfill"):
        drop_it_while_it_is_read()
    assert ids == [*range(20)]


def test_a_slot_that_went_on_without_the_spool_is_logged(
    shop: Database, app: Celery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What came between is not in it: another producer had it, or it is lost."""
    walex = make_walex(app, shop, tmp_path)
    ids = collect(walex)
    with running(walex):
        insert(shop, 1)
        wait_until_forgotten(shop)
    with running(walex):
        wait_until(lambda: ids == [1])
    assert "the slot" not in caplog.text

    insert(shop, 2)
    shop.execute("SELECT pg_replication_slot_advance('shop_walex', pg_current_wal_lsn())")
    with running(walex):
        wait_until(lambda: "the slot was acknowledged up to" in caplog.text)
    shop.execute("SELECT pg_drop_replication_slot('shop_walex')")
    with running(walex):
        wait_until(lambda: "the slot was made again" in caplog.text)
        insert(shop, 3)
        wait_until(lambda: ids == [1, 3])


def test_settings_of_the_connection_may_change(shop: Database, app: Celery, tmp_path: Path) -> None:
    walex = make_walex(app, shop, tmp_path)
    ids = collect(walex)
    shop.execute("CREATE PUBLICATION more FOR TABLE unpublished")
    with running(walex):
        insert(shop, 1)
        wait_until(lambda: ids == [1])
        backend = shop.execute("SELECT active_pid FROM pg_replication_slots WHERE active")
        walex.add_config("publication", "more")
        wait_until(
            lambda: (
                shop.execute("SELECT active_pid FROM pg_replication_slots WHERE active") not in ([], backend)
            )
        )
        insert(shop, 2)
        wait_until(lambda: ids == [1, 2])
        walex.remove_config("subscriptions", "items")
        insert(shop, 3)
        wait_until_forgotten(shop)
        walex.add_config("subscriptions", "items")
        insert(shop, 4)
        wait_until(lambda: ids[-1] == 4)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    with Postgres(settings={"fsync": "off", "wal_level": "logical"}) as server:
        yield server


@pytest.mark.parametrize("way", ["fast", "immediate", "kill"])
def test_postgres_may_go_and_come_back(
    own_postgres: Postgres, redis_url: str, tmp_path: Path, way: str
) -> None:
    """Promise 1; and an acknowledgement that a crash made the server forget stores nothing twice."""
    database = Database(own_postgres, own_postgres.create_database())
    database.execute(SCHEMA)
    walex = make_walex(make_app(redis_url), database, tmp_path)
    ids = collect(walex)
    with running(walex):
        insert(database, *range(20))
        wait_until(lambda: len(ids) == 20)
        wait_until_forgotten(database)
        if way == "kill":
            own_postgres.kill()
        else:
            own_postgres.stop("fast" if way == "fast" else "immediate")
        own_postgres.start()
        insert(database, 20)
        wait_until(lambda: ids[-1] == 20, 30)
    assert ids == [*range(21)]


def test_a_promoted_server_is_followed(own_postgres: Postgres, redis_url: str, tmp_path: Path) -> None:
    """A new timeline, on which positions may be those of other transactions."""
    database = Database(own_postgres, own_postgres.create_database())
    database.execute(SCHEMA)
    walex = make_walex(make_app(redis_url), database, tmp_path)
    ids = collect(walex)
    with running(walex):
        insert(database, *range(20))
        wait_until(lambda: len(ids) == 20)
        own_postgres.stop("fast")
        (own_postgres.data_dir / "standby.signal").touch()
        own_postgres.start()
        database.execute("SELECT pg_promote()")
        insert(database, 20)
        wait_until(lambda: ids[-1] == 20, 30)
        wait_until_forgotten(database)
    assert list(dict.fromkeys(ids)) == [*range(21)]
    assert len(segments(tmp_path)) == 1
    assert segments(tmp_path)[0].name == f"{2:020}.spool"
