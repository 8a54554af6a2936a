"""Postgres goes back to an older copy of its files: a snapshot of its disk, or a file backup that is put back.

System identifier and timeline stay the same, so positions that were passed before belong to other transactions now:
nothing that is new there may be taken for done (promise 1), and a plain restart must not repeat what is done.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis import Redis

from tests.broker.support import Proxy
from tests.failover.support import insert
from tests.support import Database, shop, wait_until
from tests.support.producers import in_thread, make_app, running
from tests.support.queues import drain
from tests.support.slots import confirmed, written
from walex_celery import Event, Lsn, Producer, Spool, SpoolError, WalEx, process_message_async
from walex_celery.telemetry.activity import Doing
from walex_celery.testing.servers import Postgres

SCHEMA = "CREATE TABLE items (id int PRIMARY KEY, filler text); CREATE PUBLICATION events FOR TABLE items"
#: Rows written after the copy, which are gone when it is put back, and rows written then.
LOST, NEW = 2_000, 25_670
FIRST_NEW = 10_001
WARNING = "Postgres has gone back to an older copy of its files"


class Copied:
    """A server, and a copy of its files that can be put back."""

    def __init__(self, server: Postgres, broker_url: str) -> None:
        self.server = server
        self.broker_url = broker_url
        self.database = Database(server, server.create_database())
        self.database.execute(SCHEMA)
        #: Where each row was committed.
        self.lsns: dict[int, Lsn] = {}
        self._copy = server.folder / "copy"

    def take(self) -> None:
        """Stop the server, copy its files, start it."""
        self.server.stop()
        # By the user who owns the files.
        self.server.run("/bin/cp", "-a", self.server.data_dir, self._copy)
        self.server.start()

    def put_back(self) -> None:
        """Stop the server as a crash would, and have the copy in place of its files."""
        self.server.stop("immediate")
        shutil.rmtree(self.server.data_dir)
        self.server.run("/bin/cp", "-a", self._copy, self.server.data_dir)
        self.server.start()

    def make(self, **settings: Any) -> tuple[WalEx, list[int]]:
        """An application that enqueues a task for each row, and the rows that its batch handler gets."""
        walex = shop.make_enqueuing(make_app(self.broker_url), self.database, **settings)
        rows: list[int] = []

        @walex.on_insert("items")
        def collected(events: list[Event]) -> None:
            for event in events:
                assert event.new_record is not None
                rows.append(event.new_record["id"])
                self.lsns[rows[-1]] = event.lsn

        return walex, rows

    def write(self, count: int, first: int) -> None:
        self.database.execute(insert(count, first))

    def wait_until_done(self) -> None:
        end = written(self.database)
        wait_until(lambda: confirmed(self.database) >= end, 120, "all is acknowledged")

    def run(self, walex: WalEx) -> None:
        """Run a producer until everything is done."""
        with running(walex, timeout=60):
            self.wait_until_done()

    def new_in_queue(self) -> list[int]:
        """The new rows whose tasks are in the queue."""
        return new_of([task.event.key["id"] for task in drain(self.broker_url, "celery") if task.event.key])


def new_of(rows: list[int]) -> list[int]:
    return [row for row in rows if row >= FIRST_NEW]


ALL_NEW = [*range(FIRST_NEW, FIRST_NEW + NEW)]


@pytest.fixture
def copied(redis_url: str) -> Iterator[Copied]:
    with Postgres(settings={"fsync": "off"}) as server:
        yield Copied(server, redis_url)


def hands_on(message: Any, name: str) -> None:
    process_message_async(message, name)


@pytest.mark.parametrize("past", [False, True], ids=["behind", "past"])
@pytest.mark.parametrize("way", ["stream", "once", "middleware"])
def test_a_producer_that_stays_up_gets_all_that_is_new(
    copied: Copied, caplog: pytest.LogCaptureFixture, way: str, past: bool
) -> None:
    """Whether it comes back before the server has written past the old position, or after that."""
    with Proxy(copied.server.port) as proxy:
        walex, rows = copied.make(
            url=copied.database.url.replace(f":{copied.server.port}/", f":{proxy.port}/"),
            exactly_once_enqueue=way == "once",
            message_middleware=hands_on if way == "middleware" else None,
        )
        copied.run(walex)
        copied.take()
        with running(walex, timeout=60) as producer:
            copied.write(LOST, 1)
            copied.wait_until_done()
            assert rows == [*range(1, LOST + 1)]
            connects = producer.statistics.connects
            proxy.refusing = True
            copied.put_back()
            if past:
                copied.write(NEW, FIRST_NEW)
            proxy.refusing = False
            wait_until(lambda: producer.statistics.connects > connects, 60)
            if not past:
                copied.write(NEW, FIRST_NEW)
            copied.wait_until_done()

    # A middleware gets what comes before the history is known to be another; it comes again then, with the same ids.
    assert list(dict.fromkeys(new_of(rows))) == ALL_NEW
    assert list(dict.fromkeys(copied.new_in_queue())) == ALL_NEW
    assert way == "middleware" or len(new_of(rows)) == NEW
    assert WARNING in caplog.text


def test_what_a_middleware_still_holds_is_not_taken_for_done(copied: Copied) -> None:
    """Its end is before what was done in the history that is gone."""
    holding = threading.Event()
    held: list[Any] = []

    def may_hold(message: Any, name: str) -> None:
        if holding.is_set():
            held.append(message)
        else:
            process_message_async(message, name)

    walex, rows = copied.make(message_middleware=may_hold)
    copied.run(walex)
    copied.take()
    with running(walex, timeout=60) as producer:
        copied.write(LOST, 1)
        copied.wait_until_done()
        holding.set()
        connects = producer.statistics.connects
        copied.put_back()
        wait_until(lambda: producer.statistics.connects > connects, 60)
        copied.write(10, FIRST_NEW)
        wait_until(lambda: sum(is_commit(message) for message in held) >= 10, 60)

    assert new_of(rows) == []
    holding.clear()
    copied.run(walex)
    assert new_of(rows) == [*range(FIRST_NEW, FIRST_NEW + 10)]


def is_commit(message: Any) -> bool:
    return bool(message.payload[:1] == b"C")


@pytest.mark.parametrize("way", ["stream", "middleware"])
def test_what_the_broker_has_not_confirmed_is_not_taken_for_done(
    copied: Copied, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("walex_celery.postgres.stream.ACKNOWLEDGE_INTERVAL", 0)
    port = urlsplit(copied.broker_url).port or 0
    with Proxy(port) as proxy:
        copied.broker_url = copied.broker_url.replace(f":{port}/", f":{proxy.port}/")
        walex, rows = copied.make(message_middleware=hands_on if way == "middleware" else None)
        copied.run(walex)
        copied.take()
        with running(walex, timeout=60) as producer:
            copied.write(LOST, 1)
            copied.wait_until_done()
            connects = producer.statistics.connects
            copied.put_back()
            wait_until(lambda: producer.statistics.connects > connects, 60)
            proxy.stall()
            copied.write(10, FIRST_NEW)
            waits = (Doing.BROKER, Doing.BROKER_DOWN)
            wait_until(lambda: new_of(rows) and producer.activity.now.doing in waits, 60)
            assert confirmed(copied.database) <= copied.lsns[FIRST_NEW]
            proxy.flow()
            copied.wait_until_done()


@pytest.mark.parametrize("before", [True, False], ids=["written before", "written after"])
def test_exactly_once_that_is_started_later_gets_all_that_is_new(
    copied: Copied, caplog: pytest.LogCaptureFixture, before: bool
) -> None:
    walex, _ = copied.make(exactly_once_enqueue=True)
    copied.run(walex)
    copied.take()
    with running(walex, timeout=60):
        copied.write(LOST, 1)
        copied.wait_until_done()
    copied.put_back()

    if before:
        copied.write(NEW, FIRST_NEW)
    with running(walex, timeout=60):
        if not before:
            copied.write(NEW, FIRST_NEW)
        copied.wait_until_done()

    assert copied.new_in_queue() == ALL_NEW
    assert "Tasks that are in the broker may be enqueued again" in caplog.text
    assert WARNING in caplog.text


def test_a_position_that_an_older_version_stored_is_read(
    copied: Copied, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no landmark; then the server's position alone shows that it went back."""
    walex, _ = copied.make(exactly_once_enqueue=True)
    copied.run(walex)
    copied.take()
    with running(walex, timeout=60):
        copied.write(LOST, 1)
        copied.wait_until_done()
    with Redis.from_url(copied.broker_url) as client:
        (key,) = client.keys("walex:*")
        client.hdel(key, *(field for field in client.hkeys(key) if field not in OLD_FIELDS))
    with caplog.at_level(logging.INFO), running(walex, timeout=60):
        wait_until(lambda: "is in the broker, and not enqueued again" in caplog.text)
    copied.put_back()

    with running(walex, timeout=60):
        copied.write(NEW, FIRST_NEW)
        copied.wait_until_done()

    assert copied.new_in_queue() == ALL_NEW


OLD_FIELDS = (b"owner", b"connection", b"holder", b"position")


@pytest.mark.parametrize("past", [False, True], ids=["behind", "past"])
@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_a_spool_stops_and_what_its_error_says_gets_all_that_is_new(
    copied: Copied, tmp_path: Path, past: bool, restarted: bool
) -> None:
    folder = tmp_path / "spool"
    with Proxy(copied.server.port) as proxy:
        walex, rows = copied.make(
            url=copied.database.url.replace(f":{copied.server.port}/", f":{proxy.port}/"),
            message_middleware=Spool(folder),
        )
        copied.run(walex)
        copied.take()

        def go_back() -> None:
            proxy.refusing = True
            copied.put_back()
            if past:
                copied.write(NEW, FIRST_NEW)
            proxy.refusing = False

        def read_and_go_back() -> None:
            producer = Producer(walex)
            with in_thread(producer, 60) as failures:
                wait_until(lambda: producer.streaming.is_set() or failures, 60)
                copied.write(LOST, 1)
                copied.wait_until_done()
                wait_until(lambda: len(rows) == LOST, 60)
                if not restarted:
                    go_back()
                    wait_until(lambda: failures, 60, "the producer ends")
            go_back()
            Producer(walex).run()

        with pytest.raises(SpoolError, match=WARNING) as caught:
            read_and_go_back()
        assert f"fix: move {folder} away" in str(caught.value)

        folder.rename(tmp_path / "away")
        with running(walex, timeout=60):
            if not past:
                copied.write(NEW, FIRST_NEW)
            copied.wait_until_done()
            wait_until(lambda: new_of(rows) == ALL_NEW, 60)

    assert copied.new_in_queue() == ALL_NEW


def test_a_spool_that_holds_nothing_of_what_is_lost_goes_on(
    copied: Copied, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Only WAL without published changes was acknowledged since the copy."""
    copied.database.execute("CREATE TABLE unpublished (id int)")
    walex, rows = copied.make(message_middleware=Spool(tmp_path / "spool"))
    with running(walex, timeout=60):
        copied.write(LOST, 1)
        copied.wait_until_done()
    copied.take()
    with running(walex, timeout=60):
        copied.database.execute("INSERT INTO unpublished SELECT generate_series(1, 20000)")
        copied.wait_until_done()
    copied.put_back()

    with running(walex, timeout=60):
        copied.write(LOST, FIRST_NEW)
        copied.wait_until_done()
        wait_until(lambda: len(rows) == 2 * LOST, 60)

    assert rows == [*range(1, LOST + 1), *range(FIRST_NEW, FIRST_NEW + LOST)]
    assert WARNING in caplog.text


@pytest.mark.parametrize("how", ["fast", "immediate"])
@pytest.mark.parametrize("way", ["stream", "once", "spool"])
def test_a_plain_restart_repeats_nothing(
    copied: Copied, caplog: pytest.LogCaptureFixture, tmp_path: Path, way: str, how: Any
) -> None:
    """Although the slot's position on the server's disk is older than what was acknowledged."""
    walex, rows = copied.make(
        exactly_once_enqueue=way == "once",
        message_middleware=Spool(tmp_path / "spool") if way == "spool" else None,
    )
    with running(walex, timeout=60):
        for first in (1, LOST + 1):
            copied.write(LOST, first)
            copied.wait_until_done()
            copied.server.restart(how)
        copied.database.execute("INSERT INTO items VALUES (0)")
        wait_until(lambda: rows[-1] == 0, 60)
        copied.wait_until_done()

    assert rows == [*range(1, 2 * LOST + 1), 0]
    queued = [task.event.key["id"] for task in drain(copied.broker_url, "celery") if task.event.key]
    assert queued == rows
    assert WARNING not in caplog.text
