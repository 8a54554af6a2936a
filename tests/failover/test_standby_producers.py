"""Any number of producers with ``--standby``: one reads, another takes over when its host is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.support import Proxy
from tests.failover.support import ids_by_row
from tests.support import Database, wait_until
from tests.support.process import producer_process
from tests.support.queues import drain
from tests.support.slots import active, confirmed, written
from walex_celery.testing.servers import Postgres

#: After so many seconds Postgres notices that a receiver is gone.
TIMEOUT_SECONDS = 5


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres(settings={"fsync": "off", "wal_sender_timeout": f"{TIMEOUT_SECONDS}s"}) as server:
        yield server


def test_the_host_of_the_active_one_is_gone(server: Postgres, redis_url: str, tmp_path: Path) -> None:
    """Its connections are cut without a FIN: neither end notices."""
    database = Database(server, "postgres")
    database.execute("CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE items")
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    with Proxy(server.port) as proxy:
        through = server.url().replace(f":{server.port}", f":{proxy.port}")
        with producer_process(database, redis_url, first, "--standby", url=through):
            wait_until(lambda: active(database), 150, "the first one reads")
            with producer_process(database, redis_url, second, "--standby"):
                wait_until(lambda: "standing by" in second.read_text(), 150, "the second one stands by")
                insert(database, 1)
                reader = pid(database)
                proxy.stall()
                began = time.monotonic()
                database.execute("INSERT INTO items VALUES (2)")
                wait_until(lambda: pid(database) not in (None, reader), 60, "the second one takes over")
                took_seconds = time.monotonic() - began
                acknowledged(database)
                # The first host is back: it finds out that it is cut off, and waits for its turn.
                reader = pid(database)
                proxy.flow()
                wait_until(lambda: "standing by" in first.read_text(), 60, "the first one stands by")
                insert(database, 3)
                assert pid(database) == reader
            wait_until(lambda: pid(database) not in (None, reader), 60, "the first one's turn")
            insert(database, 4)

    print(f"took over after {took_seconds:.1f} s; wal_sender_timeout is {TIMEOUT_SECONDS} s")
    assert took_seconds >= TIMEOUT_SECONDS / 2, "not while Postgres believed the first one to be there"
    ids = ids_by_row(drain(redis_url, "crash"))
    assert ids.keys() == {1, 2, 3, 4}
    assert all(len(found) == 1 for found in ids.values())


def insert(database: Database, row: int) -> None:
    """Insert, and wait until that is acknowledged."""
    database.execute("INSERT INTO items VALUES (%s)", [row])
    acknowledged(database)


def acknowledged(database: Database) -> None:
    end = written(database)
    wait_until(lambda: confirmed(database) >= end, 60, "all is acknowledged")


def pid(database: Database) -> int | None:
    """Of the walsender that has the slot; Postgres lets there be one only."""
    ((found,),) = database.execute("SELECT active_pid FROM pg_replication_slots")
    assert found is None or isinstance(found, int)
    return found
