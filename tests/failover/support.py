"""A primary and its hot standby, an application that reads whichever is the primary, and a load of inserts."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg2
from celery import Celery

from tests.support import Database, wait_until
from tests.support.queues import Queued
from walex_celery import WalEx
from walex_celery.testing.servers import Postgres, Standby

SLOT = "shop_walex"
QUEUE = "shop"
TABLE = "CREATE TABLE items (id int PRIMARY KEY, filler text); CREATE PUBLICATION events FOR TABLE items"


class Pair(NamedTuple):
    """A primary with ``items`` and its publication, and a standby that has them too."""

    primary: Postgres
    standby: Standby

    @property
    def url(self) -> str:
        """Of both, the old primary first."""
        first, second = (f"127.0.0.1:{server.port}" for server in self)
        return self.primary.url().replace(first, f"{first},{second}")

    def on_primary(self, statement: str) -> list[tuple[Any, ...]]:
        return Database(self.primary, "postgres").execute(statement)

    def on_standby(self, statement: str) -> list[tuple[Any, ...]]:
        return Database(self.standby, "postgres").execute(statement)

    def wait_for_slot(self) -> None:
        """Until the standby keeps a copy of the slot that survives a promotion."""

        def kept() -> bool:
            # The slot's copy advances only when there is something new.
            self.on_primary("SELECT pg_log_standby_snapshot()")
            return bool(self.on_standby("SELECT 1 FROM pg_replication_slots WHERE synced AND NOT temporary"))

        wait_until(kept, 60, "the slot is on the standby")

    def wait_for_replay(self) -> None:
        """Until the standby has replayed what the primary has flushed."""
        ((lsn,),) = self.on_primary("SELECT pg_current_wal_flush_lsn()")
        wait_until(
            lambda: self.on_standby(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'")[0][0], 30, "it is replayed"
        )


@contextmanager
def pair(settings: Mapping[str, str] | None = None) -> Iterator[Pair]:
    """A primary with *settings*, from when its standby streams on, and that standby."""
    with (
        Postgres(settings={"fsync": "off", "wal_sender_timeout": "3s"}) as primary,
        Standby(primary) as standby,
    ):
        found = Pair(primary, standby)
        found.on_primary(TABLE)
        for name, value in (settings or {}).items():
            found.on_primary(f"ALTER SYSTEM SET {name} = '{value}'")
        found.on_primary("SELECT pg_reload_conf()")
        yield found


def make_walex(broker_url: str, **keywords: Any) -> WalEx:
    """An application that enqueues a task for each row."""
    app = Celery("shop", broker=broker_url, set_as_current=False)
    app.conf.task_default_queue = QUEUE
    walex = WalEx(
        app,
        name="shop",
        publication="events",
        subscriptions=["items"],
        durable_slot=True,
        **{"failover": True, **keywords},
    )

    @walex.on_insert("items")
    @app.task(name="shop.record", shared=False)
    def record(event: object) -> None:
        """Never run: what counts is what reached the queue."""

    return walex


def insert(count: int, first: int) -> str:
    """SQL that inserts *count* rows of random sizes, each in a transaction of its own."""
    return f"""
    DO $$ BEGIN FOR i IN {first}..{first + count - 1} LOOP
      INSERT INTO items VALUES (i, repeat('x', (random() * 60)::int)); COMMIT;
    END LOOP; END $$
    """


class Load(threading.Thread):
    """Inserts a row at a time, on whichever server is the primary, until stopped."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.tried = 0
        self.committed = 0
        self._url = url
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(0.01):
            try:
                connection = psycopg2.connect(self._url, target_session_attrs="primary", connect_timeout=2)
            except psycopg2.OperationalError:
                continue
            connection.autocommit = True
            try:
                with connection.cursor() as cursor:
                    while not self._stop_asked.wait(0.002):
                        self.tried += 1
                        cursor.execute("INSERT INTO items VALUES (%s)", [self.tried])
                        self.committed += 1
            except psycopg2.Error:
                continue
            finally:
                connection.close()

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self.join()


def ids_by_row(queued: list[Queued]) -> dict[int, set[str]]:
    """The ids that each row's tasks have."""
    found: dict[int, set[str]] = defaultdict(set)
    for task in queued:
        assert task.event.new_record is not None
        found[task.event.new_record["id"]].add(task.id)
    return found
