"""What the WalEx chapters share: a producer that runs in a thread, a database as WalEx's README has it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

from celery import Celery
from celery.contrib.testing.worker import start_worker

from tests.support import Database, wait_until
from walex_celery import Event, Lsn, Producer, WalEx

# WalEx's README subscribes to "user" and "todo"; its filters name event_subscribe, todos_count and updated_at.
SCHEMA = """
CREATE TABLE "user" (
    id integer PRIMARY KEY, name varchar, event_subscribe boolean NOT NULL DEFAULT true,
    todos_count integer NOT NULL DEFAULT 0, updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE todo (id integer PRIMARY KEY, user_id integer, title text);
CREATE TABLE unpublished (id integer);
ALTER TABLE "user" REPLICA IDENTITY FULL;
ALTER TABLE todo REPLICA IDENTITY FULL;
CREATE PUBLICATION events FOR TABLE "user", todo;
"""


def make_app(broker_url: str) -> Celery:
    """An application of the test's own, which is not the process' current one."""
    app = Celery("todos", broker=broker_url, set_as_current=False)
    app.conf.worker_hijack_root_logger = False
    return app


@contextmanager
def running(walex: WalEx, *, standby: bool = False, timeout: float = 20) -> Iterator[Producer]:
    """A producer that runs in a thread and streams; stopped at the end, and what it raised is raised here."""
    producer = Producer(walex, standby=standby)
    with in_thread(producer, timeout) as failures:
        wait_until(lambda: producer.streaming.is_set() or failures, timeout, "the producer streams")
        if not failures:
            yield producer


@contextmanager
def in_thread(producer: Producer, timeout: float = 20) -> Iterator[list[BaseException]]:
    """*producer* running in a thread; gives the list that will hold what it raises, and raises it at the end."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            producer.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="producer")
    thread.start()
    try:
        yield failures
    except BaseException:
        # A producer that died is why the test's condition never came true.
        if failures:
            raise failures[0] from None
        raise
    finally:
        producer.stop()
        thread.join(timeout)
        assert not thread.is_alive(), "the producer did not stop"
    if failures:
        raise failures[0]


def working(app: Celery) -> AbstractContextManager[object]:
    """A worker in a thread."""
    # With its heartbeat: an idle worker on AMQP waits for events only, and would not notice that it is to end.
    return start_worker(
        app, pool="solo", perform_ping_check=False, without_heartbeat=False, shutdown_timeout=20
    )


@dataclass(frozen=True)
class Project:
    """A folder with a user's package, and the commands run in it."""

    folder: Path

    def write(self, files: Mapping[str, str]) -> None:
        """Write files by their path in the folder; their text may be indented as the test's is."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))

    @contextmanager
    def command(self, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """``celery *arguments`` in a process of its own, ended by SIGTERM; see :meth:`output`."""
        paths = os.pathsep.join([str(self.folder), *filter(None, sys.path)])
        with self._log(arguments).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", *arguments],
                cwd=self.folder,
                env={**os.environ, **environment, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise

    def output(self, *arguments: str) -> str:
        """What a command has written so far."""
        return self._log(arguments).read_text()

    def _log(self, arguments: tuple[str, ...]) -> Path:
        return self.folder / ("_".join(arguments).replace("/", "_") + ".log")


def wait_for(events: list[Event], count: int) -> list[Event]:
    """Wait until *events* are so many, and return them; more than that fail."""
    wait_until(lambda: len(events) >= count, message=f"{count} events in {events}")
    assert len(events) == count
    return events


def row(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """A record that must be there, as a dict."""
    assert record is not None
    return dict(record)


def confirmed_flush(database: Database, slot: str) -> Lsn:
    """What the slot has been told that it may forget."""
    rows = database.execute(
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s", [slot]
    )
    return Lsn.parse(rows[0][0])


def slots(database: Database) -> list[tuple[str, bool, bool]]:
    """Name, whether temporary, and whether active, of the database's slots."""
    return [
        (name, temporary, active)
        for name, temporary, active in database.execute(
            "SELECT slot_name, temporary, active FROM pg_replication_slots WHERE database = %s",
            [database.name],
        )
    ]
