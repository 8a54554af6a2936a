"""Promises 4 and 6: what waits for a broker that is away is bounded in bytes, and the slot is held meanwhile."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis

from tests.broker.support import Proxy
from tests.pipeline.test_volume import peak_mib
from tests.support import SENDER_TIMEOUT_SECONDS, Database, wait_until
from tests.support.process import producer_process
from tests.support.producers import make_app, running, unconfirmed
from tests.support.shop import SCHEMA, make_enqueuing
from tests.support.slots import active, confirmed, written
from walex_celery import Event, Spool
from walex_celery.testing.servers import Postgres, Valkey

ROWS, ROW_BYTES = 20_000, 10_000


@pytest.fixture(scope="module")
def impatient() -> Iterator[Postgres]:
    """Postgres that takes a consumer for dead after :data:`SENDER_TIMEOUT_SECONDS`."""
    settings = {"wal_sender_timeout": f"{SENDER_TIMEOUT_SECONDS}s", "fsync": "off", "full_page_writes": "off"}
    with Postgres(settings=settings) as server:
        yield server


def test_a_backlog_of_hundreds_of_megabytes_waits_in_postgres(
    impatient: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker answers nothing for three times wal_sender_timeout; then all comes, over the same connection."""
    monkeypatch.setenv("WALEX_PUBLISH_TIMEOUT", "1")
    database = Database(impatient, impatient.create_database())
    database.execute(SCHEMA)
    database.execute("ALTER TABLE items ALTER note SET STORAGE external")
    log = tmp_path / "producer.log"
    with Valkey(append_only=False) as broker, producer_process(database, broker.url(), log) as process:
        wait_until(lambda: active(database), 120)
        wait_until(lambda: "WARNING" in log.read_text(), 30, "it has looked at the broker")
        before = peak_mib(process.pid)
        ((pid,),) = database.execute("SELECT active_pid FROM pg_replication_slots")
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            database.execute(
                "INSERT INTO items SELECT g, repeat(md5(g::text), %s) FROM generate_series(1, %s) g",
                (ROW_BYTES // 32, ROWS),
            )
            end = written(database)
            wait_until(lambda: "processing waits" in log.read_text(), 60)
            threading.Event().wait(3 * SENDER_TIMEOUT_SECONDS)
            assert database.execute("SELECT active_pid FROM pg_replication_slots") == [(pid,)]
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        with Redis.from_url(broker.url()) as client:

            def taken_all() -> bool:
                taken.append(len(client.rpop("crash", 2000) or []))
                return sum(taken) >= ROWS

            taken: list[int] = []
            wait_until(taken_all, 120)
        wait_until(lambda: confirmed(database) >= end, 30)
        assert database.execute("SELECT active_pid FROM pg_replication_slots") == [(pid,)]
        grown = peak_mib(process.pid) - before
        print(f"{ROWS * ROW_BYTES >> 20} MiB of rows; peak memory grew by {grown:.0f} MiB")
        # What waits (64 MiB at most, in pieces and joined for a write), what was read and is not processed (8 MiB).
        assert grown < 160
        process.terminate()
        assert process.wait(60) == 0, log.read_text()


@pytest.mark.parametrize(("setting", "least", "most"), [(1 << 20, 0.5, 2.5), (64 << 20, 6, 64)])
def test_max_waiting_bytes_bounds_what_waits(
    database: Database,
    redis_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    setting: int,
    least: float,
    most: float,
) -> None:
    """In MiB, for transactions of 0.7 MiB of tasks each.

    All of them are in a spool before the broker falls silent: what Postgres has sent by then is a matter of timing, and
    a producer that has got little has little to keep waiting.
    """
    database.execute(SCHEMA)
    database.execute(
        "CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$ BEGIN FOR i IN 0..39 LOOP"
        " INSERT INTO items SELECT i * 100 + g, repeat('x', 4000) FROM generate_series(1, 100) g; COMMIT;"
        " END LOOP; END $$"
    )
    database.execute("SELECT pg_create_logical_replication_slot('shop_walex', 'pgoutput')")
    database.execute("INSERT INTO items VALUES (0)")
    spool = Spool(tmp_path / "spool")
    entered, spooled = threading.Event(), threading.Event()
    port = urlsplit(redis_url).port or 0
    with Proxy(port) as proxy:
        app = make_app(redis_url.replace(f":{port}", f":{proxy.port}"))
        walex = make_enqueuing(
            app, database, message_middleware=spool, max_waiting_bytes=setting, publish_timeout=1
        )

        @walex.on_insert("items")
        def stall(events: list[Event]) -> None:
            if not entered.is_set():
                entered.set()
                assert spooled.wait(60)
                proxy.stall()

        with caplog.at_level(logging.INFO, "walex_celery"), running(walex) as producer:
            assert entered.wait(20)
            database.execute("CALL fill()")
            end = written(database)
            wait_until(lambda: confirmed(database) >= end, 60, "all is in the spool")
            spooled.set()
            wait_until(lambda: "processing waits" in caplog.text, 30)
            status = producer.snapshot()
            assert status is not None
            assert least < status.unconfirmed_bytes / 2**20 < most
            proxy.flow()
            with Redis.from_url(redis_url) as client:
                wait_until(lambda: client.llen("celery") >= 4001, 60)
            wait_until(lambda: not unconfirmed(producer), 60)
    assert "the broker takes tasks again" in caplog.text
