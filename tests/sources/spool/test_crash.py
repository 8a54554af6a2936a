"""Promises 1 to 3 with a spool: kill -9 at any moment loses nothing, and a duplicate has the id of its first."""

from __future__ import annotations

import random
import signal
import threading
from pathlib import Path
from typing import cast

import pytest
from redis import Redis

from tests.pipeline.test_crash import KILLS
from tests.sources.spool.support import segments
from tests.support import Database, wait_until
from tests.support.failpoints import armed, killed_at
from tests.support.load import STARTING_ROWS, STREAMING_ROWS, Load, check_complete
from tests.support.process import producer_process
from tests.support.queues import drain
from tests.support.slots import active, confirmed, written
from walex_celery._failpoints import Name


def test_kill_9_at_random_moments_loses_nothing(
    database: Database, redis_url: str, crash_spool: Path, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    log = tmp_path / "producer.log"
    database.execute("CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE items")
    database.execute("SELECT pg_create_logical_replication_slot('crash_walex', 'pgoutput')")
    names: set[str] = set()
    with Load(database, seed) as load:
        for _ in range(KILLS):
            load.allow(STARTING_ROWS)
            with producer_process(database, redis_url, log) as process:
                streams = lambda: active(database) or process.poll() is not None  # noqa: E731
                wait_until(streams, 30, "the producer streams")
                assert process.poll() is None, log.read_text()
                load.allow(STREAMING_ROWS)
                threading.Event().wait(chance.uniform(0, 0.6))
                process.send_signal(signal.SIGKILL)
                process.wait()
            names.update(path.name for path in segments(crash_spool))
            wait_until(lambda: not active(database), 30, "Postgres notices")
    end = written(database)
    last = f"<Event insert items id={load.committed} "
    with producer_process(database, redis_url, log) as process:
        # It may have nothing left to do; but it is to be ended as a producer, not as a Python that starts.
        wait_until(lambda: active(database), 30, "the producer streams")
        wait_until(lambda: confirmed(database) >= end, 60, "all is acknowledged")
        wait_until(lambda: last in newest_task(redis_url), 60, "all was processed")
        process.terminate()
        assert process.wait(30) == 0, log.read_text()

    queued = drain(redis_url, "crash")
    check_complete(queued, load.committed)
    print(f"{load.committed} rows, {len(queued) - load.committed} duplicates, {len(names)} segments")
    assert len(names) > 1


@pytest.mark.parametrize("name", ["spool-written", "spool-synced", "spool-position-saved", "tasks-confirmed"])
def test_kill_9_at_each_step_of_a_segment(
    database: Database, redis_url: str, crash_spool: Path, tmp_path: Path, name: Name
) -> None:
    """While a load is read that fills several segments."""
    # Segments may be removed all at once.
    turn = 1 if name == "spool-position-saved" else 2
    log = tmp_path / "producer.log"
    database.execute("CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE items")
    database.execute("SELECT pg_create_logical_replication_slot('crash_walex', 'pgoutput')")
    rows = 0
    for kill in (True, True, False):
        for _ in range(10):
            database.execute("INSERT INTO items SELECT generate_series(%s, %s)", (rows + 1, rows + 1000))
            rows += 1000
        end = written(database)
        with producer_process(
            database, redis_url, log, failpoints=armed(name, turn=turn) if kill else ""
        ) as process:
            if kill:
                killed_at(process, name, log)
            else:
                last = f"<Event insert items id={rows} "
                wait_until(lambda: active(database), 30, "the producer streams")
                wait_until(lambda: confirmed(database) >= end, 60, "all is acknowledged")  # noqa: B023
                wait_until(lambda: last in newest_task(redis_url), 60, "all was processed")  # noqa: B023
                process.terminate()
                assert process.wait(30) == 0, log.read_text()
        wait_until(lambda: not active(database), 30, "Postgres notices")
    check_complete(drain(redis_url, "crash"), rows)


def newest_task(redis_url: str) -> str:
    """The task that was enqueued last, as it is in the queue."""
    with Redis.from_url(redis_url) as client:
        raw = cast("bytes | None", client.lindex("crash", 0))
    return (raw or b"").decode()
