"""Promises 1 and 3: kill -9 at any moment loses nothing, and a duplicate has the id of its first."""

from __future__ import annotations

import random
import signal
import threading
from collections import defaultdict
from pathlib import Path

from tests.support import Database, wait_until
from tests.support.process import producer_process
from tests.support.queues import Queued, drain
from tests.support.slots import active, confirmed, written

KILLS = 20
#: Rows of a round: what is inserted while a producer starts, and once it streams. A slow machine starts producers
#: slowly, but inserts as fast as any: without a bound the backlog at the end would be of minutes.
STARTING_ROWS, STREAMING_ROWS = 3_000, 2_000


class Load(threading.Thread):
    """Inserts rows until stopped, in transactions of 1 to 50; counts what it committed."""

    def __init__(self, database: Database, seed: int) -> None:
        super().__init__(daemon=True)
        self.committed = 0
        self._allowed = 1 << 62
        self._database = database
        self._random = random.Random(seed)
        self._stop_asked = threading.Event()

    def run(self) -> None:
        connection = self._database.connect()
        with connection.cursor() as cursor:
            while not self._stop_asked.wait(0.002):
                if self.committed >= self._allowed:
                    continue
                rows = self._random.choice([1, 1, 1, 5, 50])
                first = self.committed + 1
                cursor.execute("INSERT INTO items SELECT generate_series(%s, %s)", (first, first + rows - 1))
                self.committed += rows
        connection.close()

    def allow(self, rows: int) -> None:
        """Insert no more than about *rows* from now on."""
        self._allowed = self.committed + rows

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self.join()


def test_kill_9_at_random_moments_loses_nothing(database: Database, broker_url: str, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    log = tmp_path / "producer.log"
    database.execute("CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE items")
    database.execute("SELECT pg_create_logical_replication_slot('crash_walex', 'pgoutput')")
    with Load(database, seed) as load:
        for _ in range(KILLS):
            load.allow(STARTING_ROWS)
            with producer_process(database, broker_url, log) as process:
                streams = lambda: active(database) or process.poll() is not None  # noqa: E731
                wait_until(streams, 30, "the producer streams")
                assert process.poll() is None, log.read_text()
                load.allow(STREAMING_ROWS)
                threading.Event().wait(chance.uniform(0, 0.6))
                process.send_signal(signal.SIGKILL)
                process.wait()
            wait_until(lambda: not active(database), 30, "Postgres notices")
    end = written(database)
    with producer_process(database, broker_url, log) as process:
        # It may have nothing left to do; but it is to be ended as a producer, not as a Python that starts.
        wait_until(lambda: active(database), 30, "the producer streams")
        wait_until(lambda: confirmed(database) >= end, 60, "all is acknowledged")
        process.terminate()
        assert process.wait(30) == 0, log.read_text()

    queued = drain(broker_url, "crash")
    check_complete(queued, load.committed)
    print(f"{load.committed} rows, {len(queued)} tasks: {len(queued) - load.committed} duplicates")


def check_complete(queued: list[Queued], rows: int) -> None:
    ids: dict[int, set[str]] = defaultdict(set)
    first_seen = []
    for task in queued:
        assert task.event.new_record is not None
        row = task.event.new_record["id"]
        if row not in ids:
            first_seen.append(row)
        ids[row].add(task.id)
    assert ids.keys() == set(range(1, rows + 1))
    assert all(len(found) == 1 for found in ids.values())
    assert len({next(iter(found)) for found in ids.values()}) == rows
    # Promise 2: whatever was replayed, each row's first task came in the order of commits.
    assert first_seen == sorted(first_seen)
