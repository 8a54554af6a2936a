"""Everything that a soak runs: servers, proxies, producers, workers, load; and the variants of it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg2

from tests.broker.support import Proxy
from tests.faults.load import SCHEMA, Writer
from tests.faults.processes import EndedByItself, Footprint, Managed
from tests.support import Database, wait_until
from tests.support.slots import written
from walex_celery.postgres.lsn import Lsn
from walex_celery.testing.servers import Postgres, RabbitMQ, Server, Valkey

SLOT: Final = "faults_walex"
#: Seconds after which Valkey's unacknowledged tasks come back.
VISIBILITY_SECONDS: Final = 5
RECORDS: Final = """
CREATE TABLE runs (
    id text, lsn bigint, index int, tab text, type text, key int, version int,
    committed timestamptz, ran timestamptz DEFAULT clock_timestamp()
);
CREATE INDEX ON runs (id);
"""


@dataclass(frozen=True)
class Variant:
    """What is soaked.

    Attributes:
        broker: ``valkey``, ``rabbitmq`` (a durable classic queue) or ``quorum``.
        spool: whether the producers have one, on a disk that is filled.
        once: whether tasks are enqueued exactly once (Valkey only).
        pause_seconds: of each writer between transactions, on average.
    """

    broker: str
    spool: bool = False
    once: bool = False
    pause_seconds: float = 0.5

    def __str__(self) -> str:
        return self.broker + (" once" if self.once else "") + (" with spool" if self.spool else "")

    def conf(self) -> dict[str, Any]:
        """Settings of Celery."""
        if self.broker == "valkey":
            # By default kombu looks every 100 s for what has become visible again, and a worker that was killed
            # while it looked keeps the others from looking for 5 minutes.
            restore = {
                "unacked_restore_interval": 2,
                "unacked_restore_throttle": 1,
                "unacked_restore_limit": 1000,
            }
            options = {"visibility_timeout": VISIBILITY_SECONDS, "unacked_mutex_expire": 5, **restore}
            return {"broker_transport_options": options}
        if self.broker == "quorum":
            return {
                "task_default_queue_type": "quorum",
                "broker_transport_options": {"confirm_publish": True},
            }
        return {}


@dataclass
class World:
    """A variant that runs."""

    variant: Variant
    folder: Path
    postgres: Postgres
    broker: Server
    records: Database
    database: Database
    postgres_proxy: Proxy
    broker_proxy: Proxy
    spool_disk: Path | None
    producers: list[Managed]
    workers: list[Managed]
    writers: list[Writer]
    footprint: Footprint
    #: Processes that nobody killed, and that were started again.
    mourned: list[str] = field(default_factory=list)

    @property
    def journals(self) -> Path:
        """The folder of what batch handlers were given."""
        return self.folder / "journals"

    def check(self) -> None:
        """Raise when a producer ended by itself; a worker is Celery's affair, and is started again."""
        for producer in self.producers:
            producer.check()
        for worker in self.workers:
            with self.mourning():
                worker.check()
            worker.start()

    @contextmanager
    def mourning(self) -> Iterator[None]:
        """Note a worker that turns out to have ended by itself."""
        try:
            yield
        except EndedByItself as error:
            self.mourned.append(str(error))

    def confirmed(self) -> Lsn:
        """What the slot has been told that it may forget."""
        ((lsn,),) = self.database.execute(
            "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s", [SLOT]
        )
        return Lsn.parse(lsn)

    def await_confirmed(self, timeout: float) -> float:
        """Wait until everything that is written now is acknowledged; returns the seconds that it took."""
        began = time.monotonic()
        # The database may still be starting.
        end = wait_until(self._or_none(lambda: written(self.database)), timeout, "Postgres answers")

        def done() -> bool:
            self.check()
            confirmed = self._or_none(self.confirmed)()
            return confirmed is not None and confirmed >= end

        try:
            wait_until(done, timeout, f"everything up to {end} is acknowledged")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe()}") from None
        return time.monotonic() - began

    @staticmethod
    def _or_none(ask: Callable[[], Lsn]) -> Callable[[], Lsn | None]:
        def asked() -> Lsn | None:
            try:
                return ask()
            except psycopg2.OperationalError:
                return None

        return asked

    def describe(self) -> str:
        """What all processes said last, and what Postgres says of the slot."""
        said = [f"=== {process.name}\n{process.tail()}" for process in (*self.producers, *self.workers)]
        try:
            slot: object = self.database.execute(
                "SELECT active, active_pid, confirmed_flush_lsn, pg_current_wal_flush_lsn() FROM pg_replication_slots"
            )
        except psycopg2.Error as error:
            slot = error
        return "\n".join([*said, f"=== slot: {slot}"])


@contextmanager
def running(variant: Variant, seed: int, records: Database, *, standby: bool = True) -> Iterator[World]:
    """A world with load on it; all of it is gone afterwards."""
    records.execute(RECORDS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="walex-faults-")))
        (folder / "journals").mkdir()
        postgres = stack.enter_context(Postgres(settings={"fsync": "off", "wal_sender_timeout": "4s"}))
        broker: Server
        if variant.broker == "valkey":
            broker = stack.enter_context(Valkey(settings={"auto-aof-rewrite-percentage": "0"}))
            url = broker.url()
        else:
            broker = stack.enter_context(RabbitMQ())
            url = broker.url()
        database = Database(postgres, postgres.create_database())
        database.execute(SCHEMA)
        database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [SLOT])
        postgres_proxy = stack.enter_context(Proxy(postgres.port))
        broker_proxy = stack.enter_context(Proxy(broker.port))
        disk = stack.enter_context(tiny_disk(folder / "disk")) if variant.spool else None
        common = {
            "FAULTS_CONF": json.dumps(variant.conf()),
            "FAULTS_WALEX": json.dumps({"exactly_once_enqueue": True} if variant.once else {}),
            "FAULTS_JOURNALS": str(folder / "journals"),
            "FAULTS_RECORDS": records.dsn,
            "FAULTS_SPOOL": str(disk / "spool") if disk is not None else "",
        }
        through_proxies = common | {
            "FAULTS_BROKER": url.replace(f":{broker.port}", f":{broker_proxy.port}"),
            "WALEX_URL": database.url.replace(f":{postgres.port}", f":{postgres_proxy.port}"),
        }
        direct = common | {"FAULTS_BROKER": url, "WALEX_URL": database.url}
        producers = [
            Managed(f"producer {number}", ("walex", "producer", "--standby"), through_proxies, folder)
            for number in range(2 if standby else 1)
        ]
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        pools = (("--pool", "solo"), ("--pool", "prefork", "-c", "2"))
        workers = [
            Managed(f"worker {number}", ("worker", *quiet, *pool, "-n", f"w{number}@%h"), direct, folder)
            for number, pool in enumerate(pools)
        ]
        writers = [
            Writer(database.dsn, number, seed, pause_seconds=variant.pause_seconds) for number in range(2)
        ]
        for process in (*producers, *workers):
            stack.callback(process.close)
            process.start()
        footprint = Footprint(producers)
        footprint.start()
        stack.callback(footprint.stop)
        world = World(
            variant, folder, postgres, broker, records, database, postgres_proxy, broker_proxy, disk,
            producers, workers, writers, footprint,
        )  # fmt: skip
        world.await_confirmed(120)
        for writer in writers:
            writer.start()
            stack.callback(writer.stop)
        wait_until(lambda: records.execute("SELECT 1 FROM runs LIMIT 1"), 120, "a worker works")
        yield world


@contextmanager
def tiny_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of 4 MiB, ``None`` where none may be mounted (that takes root)."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield folder
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
