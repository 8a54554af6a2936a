"""Promises 2 and 4: many transactions, and one huge one, arrive whole and in order, in flat memory."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from kombu import Connection

from tests.support import Database, wait_until
from tests.support.process import producer_process
from tests.support.slots import active, confirmed, written
from walex_celery.events.task_id import parse_task_id

TRANSACTIONS = 100_000
# RabbitMQ takes and gives a twentieth of what Valkey does; its huge transaction is smaller.
HUGE = {"redis": 1_000_000, "amqp": 100_000}
MEMORY_MIB = 160

_ID = re.compile(rb'"id": "([0-9a-f-]{36})"')


class Tally:
    """Takes tasks off a queue as they come, checks their order by their ids, and counts them by transaction."""

    def __init__(self, broker_url: str, queue: str) -> None:
        self._connection = Connection(broker_url)
        # Any: what a channel can do depends on the transport.
        self._channel = cast(Any, self._connection.channel())
        self._queue = queue
        self._redis = broker_url.startswith("redis")
        self._last = (0, -1)
        self._received: list[str] = []
        self.by_lsn: dict[int, int] = {}
        self.total = 0
        if not self._redis:
            self._channel.basic_qos(0, 0, False)
            take_id = lambda message: self._received.append(message.headers["id"])  # noqa: E731
            self._channel.basic_consume(queue, no_ack=True, callback=take_id, consumer_tag="tally")

    def take(self) -> int:
        """Take what is there, up to some thousands; returns how many."""
        ids = self._from_redis() if self._redis else self._from_amqp()
        for text in ids:
            position = parse_task_id(text)
            here = (position.lsn, position.index)
            assert here > self._last, f"{text} came after {self._last}"
            self._last = here
            self.by_lsn[position.lsn] = self.by_lsn.get(position.lsn, 0) + 1
        self.total += len(ids)
        return len(ids)

    def _from_redis(self) -> list[str]:
        found = self._channel.client.rpop(self._queue, 5000) or []
        return [match[1].decode() for raw in found if (match := _ID.search(raw))]

    def _from_amqp(self) -> list[str]:
        with suppress(TimeoutError):
            while len(self._received) < 5000:
                self._connection.drain_events(timeout=0.05)
        found, self._received = self._received, []
        return found

    def close(self) -> None:
        self._connection.close()


def peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_single_row_transactions_and_a_huge_one(database: Database, broker_url: str, tmp_path: Path) -> None:
    huge = HUGE[broker_url.partition(":")[0]]
    log = tmp_path / "producer.log"
    database.execute("CREATE TABLE items (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE items")
    database.execute("SELECT pg_create_logical_replication_slot('crash_walex', 'pgoutput')")
    database.execute(
        "CREATE PROCEDURE fill(n int) LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..n LOOP"
        " INSERT INTO items VALUES (i); COMMIT; END LOOP; END $$"
    )
    database.execute("CALL fill(%s)", (TRANSACTIONS,))
    database.execute(
        "INSERT INTO items SELECT generate_series(%s, %s)", (TRANSACTIONS + 1, TRANSACTIONS + huge)
    )
    end = written(database)
    with producer_process(database, broker_url, log) as process:
        wait_until(lambda: active(database), 30, "the producer streams, having declared its queue")
        tally = Tally(broker_url, "crash")

        def all_there() -> bool:
            tally.take()
            return tally.total == TRANSACTIONS + huge

        wait_until(all_there, 300, "all tasks are in the queue")
        wait_until(lambda: confirmed(database) >= end, 30, "all is acknowledged")
        peak = peak_mib(process.pid)
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
        assert tally.take() == 0
        tally.close()
    counts = list(tally.by_lsn.values())
    assert counts == [1] * TRANSACTIONS + [huge]
    print(f"peak memory {peak:.0f} MiB")
    assert peak < MEMORY_MIB
