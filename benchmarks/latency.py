"""From COMMIT to a task's first line in a real worker, next to a bare ``delay()`` to the same worker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Literal

from psycopg2.extensions import connection

from benchmarks.backlog import PUBLICATION
from benchmarks.latency_app import TIMED_QUEUE
from benchmarks.queues import empty_queue
from benchmarks.run import ROOT
from benchmarks.samples import LatencySample
from benchmarks.servers import Servers
from benchmarks.shapes import SINGLE
from walex_celery.testing.servers import Postgres

RATES = (100, 5000)
#: Timed tasks per second; the rest of the rate is published to a queue without a consumer.
TIMED_RATE = 100

_WARM_UP = 50
_DEADLINE_SECONDS = 60.0

BARE = "delay"
COMMIT = "commit"


def measure_latency(
    servers: Servers, broker: Literal["valkey", "classic"], rates: Sequence[int], seconds: float, rounds: int
) -> Iterator[LatencySample]:
    """Time a bare ``delay()``, and commits at each of *rates* per second, in turn, for *seconds* each in total."""
    database = servers.postgres.create_database()
    with ExitStack() as stack:
        stack.callback(servers.postgres.drop_database, database)
        queue = stack.enter_context(empty_queue(servers, broker))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="walex-bench-")))
        opened = servers.postgres.connect(database)
        stack.callback(opened.close)
        with opened.cursor() as cursor:
            cursor.execute(SINGLE.schema)
            cursor.execute(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE users")
        run = _Run(servers.postgres, database, opened, folder, queue.url)
        options = ("-c", "1", "-Q", TIMED_QUEUE, "--without-gossip", "--without-mingle")
        stack.enter_context(run.celery("worker", *options))
        stack.enter_context(run.celery("walex", "producer"))
        run.warm_up()
        bare = _Load(TIMED_RATE)
        commits = [_Load(rate) for rate in rates]
        for _ in range(rounds):
            run.bare(bare, seconds / rounds)
            for load in commits:
                run.commits(load, seconds / rounds)
    yield bare.sample(broker, BARE)
    for load in commits:
        yield load.sample(broker, COMMIT)


class _Load:
    """The times of one load, of all its rounds together."""

    def __init__(self, asked_rate: int) -> None:
        self.asked_rate = asked_rate
        self.times: list[float] = []
        self.rates: list[float] = []

    def sample(self, broker: str, source: str) -> LatencySample:
        """What to keep of it."""
        return LatencySample(
            broker=broker,
            source=source,
            asked_rate=self.asked_rate,
            rate=median(self.rates),
            count=len(self.times),
            p50=quantile(self.times, 0.5),
            p99=quantile(self.times, 0.99),
            p999=quantile(self.times, 0.999),
        )


class _Run:
    """A worker, a producer, and the file that the worker keeps times in."""

    def __init__(
        self, postgres: Postgres, database: str, opened: connection, folder: Path, broker_url: str
    ) -> None:
        self.postgres = postgres
        self.database = database
        self.opened = opened
        self.folder = folder
        self.times = folder / "times"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = os.environ | {
            "BENCH_BROKER_URL": broker_url,
            "BENCH_POSTGRES_URL": postgres.url(database),
            "BENCH_TIMES": str(self.times),
        }

    @contextmanager
    def celery(self, *arguments: str) -> Iterator[None]:
        """Run a ``celery`` command until the block ends."""
        log = self.folder / f"{arguments[0]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "benchmarks.latency_app", *arguments, "-l", "WARNING"],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        self.processes.append(process)
        try:
            yield
        except BaseException as error:
            error.add_note(f"celery {' '.join(arguments)}:\n{log.read_text(errors='replace')}")
            raise
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def warm_up(self) -> None:
        """Wait until worker and producer run, and have processed a few tasks."""
        self._call(_WARM_UP, TIMED_RATE)
        self.take(_WARM_UP)
        self._wait_until(lambda: self._number("SELECT count(*) FROM pg_replication_slots WHERE active") > 0)
        self._pgbench(TIMED_RATE, _WARM_UP, timed_part=1)
        self.take(_WARM_UP)

    def bare(self, load: _Load, seconds: float) -> None:
        """Time ``delay()``."""
        count = max(2, round(load.asked_rate * seconds))
        load.rates.append(self._call(count, load.asked_rate))
        # The first one connects.
        load.times += self.take(count)[1:]

    def _call(self, count: int, rate: int) -> float:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.bare_delay", str(count), str(rate)],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            check=True,
        )
        return float(done.stdout)

    def commits(self, load: _Load, seconds: float) -> None:
        """Time commits."""
        timed_part = max(1, load.asked_rate // TIMED_RATE)
        before = self._number("SELECT count(*) FROM users WHERE event_subscribe")
        transactions = max(10 * timed_part, round(load.asked_rate * seconds))
        load.rates.append(self._pgbench(load.asked_rate, transactions, timed_part))
        count = self._number("SELECT count(*) FROM users WHERE event_subscribe") - before
        load.times += self.take(count)

    def _pgbench(self, rate: int, transactions: int, timed_part: int) -> float:
        """Insert single rows, one in *timed_part* of them timed; returns transactions a second."""
        script = self.folder / "insert.sql"
        script.write_text(
            f"\\set part random(1, {timed_part})\n"
            "INSERT INTO users (name, email, event_subscribe, active)"
            f" VALUES ('User Number 0', 'user0@example.com', :part = 1, {str(timed_part > 1).lower()});\n"
        )
        # Each transaction at its own random moment, as visitors come; not when the one before is done.
        done = subprocess.run(
            [
                str(self.postgres.bin_dir / "pgbench"),
                *("--host", "127.0.0.1", "--port", str(self.postgres.port)),
                *("--username", self.postgres.username, "--no-vacuum", "--protocol", "prepared"),
                *("--rate", str(rate), "--transactions", str(transactions), "--file", str(script)),
                self.database,
            ],
            env={**os.environ, "PGPASSWORD": self.postgres.password, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
        )
        found = [line for line in done.stdout.splitlines() if line.startswith("tps = ")]
        if done.returncode != 0 or not found:
            raise RuntimeError(f"pgbench failed:\n{done.stdout}{done.stderr}")
        return float(found[0].split()[2])

    def take(self, count: int) -> list[float]:
        """Wait for *count* times, return them, and forget them."""

        def lines() -> list[str]:
            return self.times.read_text().splitlines() if self.times.exists() else []

        self._wait_until(lambda: len(lines()) >= count)
        times = [float(line) for line in lines()]
        self.times.unlink(missing_ok=True)
        if len(times) != count:
            raise RuntimeError(f"{len(times)} tasks ran, {count} were expected")
        return times

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while not condition():
            if any(process.poll() is not None for process in self.processes):
                raise RuntimeError("the worker or the producer has ended")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {_DEADLINE_SECONDS:g} s")
            time.sleep(0.02)

    def _number(self, query: str) -> int:
        with self.opened.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
        assert row is not None
        return int(row[0])


def quantile(values: Sequence[float], share: float) -> float:
    """The value that *share* of *values* do not exceed: one that was measured, not one in between.

    >>> quantile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
