"""A contender's process: reads a Job, drains, prints the Outcome."""

from __future__ import annotations

import logging
import resource
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from celery import Celery, signals
from kombu import Queue

from benchmarks.backlog import PUBLICATION
from benchmarks.job import Job, Outcome
from benchmarks.queues import QUEUE, queue_arguments
from benchmarks.ready_made import write_ready_made
from walex_celery import Event, Producer, WalEx

#: Seconds between checks of the producer's position: short compared with a drain, long enough to cost nothing.
_LOOK_SECONDS = 0.002


class Drain:
    """One producer and what it is measured by.

    Attributes:
        app: its Celery application.
        handled: events that a batch handler got.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.app = _celery(job)
        self.handled = 0
        # The producer needs a subscription to start; this one names a table that does not exist.
        table = "nothing" if job.work == "unsubscribed" else job.table
        self.walex = WalEx(
            self.app,
            name="bench",
            url=job.postgres_url,
            publication=PUBLICATION,
            subscriptions=[table],
            durable_slot=True,
            slot_name=job.slot,
        )
        self.producer = Producer(self.walex)

    def run(self) -> Outcome:
        """Drain to the end, and return the outcome."""
        register(self)
        ways = _Ways()
        counted = self.job.work in ("one_column", "all_columns", "delay")
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self.producer.run)
            waiting = threading.Event()
            try:
                while not self.producer.streaming.wait(0.1):
                    if running.done():
                        running.result()
                began, cpu_began = time.perf_counter(), time.process_time()
                while self.producer.confirmed_lsn <= self.job.end and not running.done():
                    waiting.wait(_LOOK_SECONDS)
                seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
            finally:
                self.producer.stop()
            running.result()
        if counted and self.handled != self.job.events:
            raise RuntimeError(f"{self.handled} events handled, {self.job.events} expected")
        return Outcome(self.job.events, seconds, cpu_seconds, peak_bytes(), tuple(ways.found))

    def capture(self, count: int) -> list[tuple[bytes, str]]:
        """Read the first *count* events; returns JSON text and argsrepr of each."""
        captured: list[tuple[bytes, str]] = []

        @self.walex.on_event(self.job.table)
        def capture(events: list[Event]) -> None:
            captured.extend((event.to_json(), repr(event)) for event in islice(events, count - len(captured)))
            if len(captured) >= count:
                self.producer.stop()

        self.producer.run()
        return captured


def define_tasks(app: Celery) -> list[Any]:
    """Three empty tasks."""

    def task(event: Event) -> None: ...

    return [app.task(name=f"bench.{name}")(task) for name in ("first", "second", "third")]


def register(drain: Drain) -> None:
    """Register the handlers for the work."""
    job = drain.job
    on_event = drain.walex.on_event
    first, *others = define_tasks(drain.app)

    def each(handle: Callable[[Event], object]) -> None:
        @on_event(job.table)
        def batch(events: list[Event]) -> None:
            for event in events:
                handle(event)
            drain.handled += len(events)

    def column(event: Event) -> object:
        record = event.new_record or event.old_record
        assert record is not None
        return record[job.column]

    def columns(event: Event) -> object:
        record = event.new_record or event.old_record
        assert record is not None
        return list(record.values())

    work = job.work
    if work == "filtered":
        on_event(job.table, {"unwatched_records": job.unwatched})(first)
    elif work == "one_column":
        each(column)
    elif work == "all_columns":
        each(columns)
    elif work == "delay":
        each(first.delay)
    else:
        on_event(job.table, None, others if work == "publish_three" else [])(first)
    if work == "signal":
        signals.before_task_publish.connect(_listen, weak=False)


def _listen(**_: Any) -> None:
    """Do nothing: only the cost of having a receiver is measured."""


class _Ways(logging.Handler):
    """Extracts from the log how tasks are published."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.found: dict[str, None] = {}
        logger = logging.getLogger("walex_celery.broker.publisher")
        logger.addHandler(self)
        logger.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the way, if it is that line, whatever its words: it has the way as a field."""
        way = getattr(record, "way", None)
        if way is not None:
            self.found[str(way)] = None


def _celery(job: Job) -> Celery:
    app = Celery("bench", broker=job.broker_url)
    app.conf.task_ignore_result = True
    app.conf.task_default_queue = QUEUE
    if job.broker != "valkey":
        app.conf.task_queues = [Queue(QUEUE, queue_arguments=queue_arguments(job.broker))]
        if job.work == "delay":
            app.conf.broker_transport_options = {"confirm_publish": True}
    return app


def peak_bytes() -> int:
    """This process' peak memory, without that of the process that it was forked from."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Do the job from standard input."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    drain = Drain(job)
    if job.work == "ready_made":
        events = drain.capture(min(job.events, 2000))
        seconds, cpu_seconds = write_ready_made(drain.app, define_tasks(drain.app)[0], events, job.events)
        outcome = Outcome(job.events, seconds, cpu_seconds, peak_bytes())
    else:
        outcome = drain.run()
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
