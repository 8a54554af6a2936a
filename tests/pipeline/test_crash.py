"""Promises 1 to 3: kill -9 at any moment loses nothing, and a duplicate has the id of its first."""

from __future__ import annotations

import random
import signal
import threading
from pathlib import Path

import pytest

from tests.support import Database, wait_until
from tests.support.failpoints import armed, killed_at
from tests.support.load import STARTING_ROWS, STREAMING_ROWS, Load, check_complete
from tests.support.process import producer_process
from tests.support.queues import drain
from tests.support.slots import active, confirmed, written
from walex_celery import Lsn
from walex_celery._failpoints import Name

KILLS = 20
SCHEMA = "CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE items"
SLOT = "SELECT pg_create_logical_replication_slot('crash_walex', 'pgoutput')"


def run_to_the_end(database: Database, broker_url: str, log: Path, end: Lsn) -> None:
    """A last producer, until everything is acknowledged."""
    with producer_process(database, broker_url, log) as process:
        # It may have nothing left to do; but it is to be ended as a producer, not as a Python that starts.
        wait_until(lambda: active(database), 30, "the producer streams")
        wait_until(lambda: confirmed(database) >= end, 60, "all is acknowledged")
        process.terminate()
        assert process.wait(30) == 0, log.read_text()


def test_kill_9_at_random_moments_loses_nothing(database: Database, broker_url: str, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    log = tmp_path / "producer.log"
    database.execute(SCHEMA)
    database.execute(SLOT)
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
    run_to_the_end(database, broker_url, log, written(database))

    queued = drain(broker_url, "crash")
    check_complete(queued, load.committed)
    print(f"{load.committed} rows, {len(queued)} tasks: {len(queued) - load.committed} duplicates")


@pytest.mark.parametrize("name", ["tasks-added", "tasks-written", "tasks-confirmed", "acknowledged"])
def test_kill_9_at_each_step_of_a_batch(
    database: Database, broker_url: str, tmp_path: Path, name: Name
) -> None:
    """What the broker has, and what Postgres was told, at each step; and all of it again, with the same ids."""
    rows, log = 40, tmp_path / "producer.log"
    database.execute(SCHEMA)
    database.execute(SLOT)
    ((inside,),) = database.execute(
        "INSERT INTO items SELECT generate_series(1, %s); SELECT pg_current_wal_insert_lsn()", (rows,)
    )
    with producer_process(database, broker_url, log, failpoints=armed(name)) as process:
        killed_at(process, name, log)
    wait_until(lambda: not active(database), 30, "Postgres notices")

    # One transaction is one batch. What was written may still be on its way through the sockets.
    first = [] if name == "tasks-written" else drain(broker_url, "crash")
    assert len(first) == {"tasks-added": 0, "tasks-written": 0}.get(name, rows)
    assert (confirmed(database) > Lsn.parse(inside)) == (name == "acknowledged")
    database.execute("INSERT INTO items VALUES (%s)", (rows + 1,))
    run_to_the_end(database, broker_url, log, written(database))

    second = drain(broker_url, "crash")
    check_complete(first + second, rows + 1)
    if name != "tasks-written":
        again = rows if name == "tasks-confirmed" else 0
        assert len(first + second) == rows + again + 1


def test_kill_9_again_and_again_before_the_acknowledgement(
    database: Database, broker_url: str, tmp_path: Path
) -> None:
    """Each producer sends the same tasks, and none goes on to the next."""
    rows, log = 10, tmp_path / "producer.log"
    database.execute(SCHEMA)
    database.execute(SLOT)
    database.execute("INSERT INTO items SELECT generate_series(1, %s)", (rows,))
    for _ in range(3):
        with producer_process(database, broker_url, log, failpoints=armed("tasks-confirmed")) as process:
            killed_at(process, "tasks-confirmed", log)
        wait_until(lambda: not active(database), 30, "Postgres notices")
    run_to_the_end(database, broker_url, log, written(database))

    queued = drain(broker_url, "crash")
    check_complete(queued, rows)
    assert len(queued) == 4 * rows
