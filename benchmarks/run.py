"""One drain by one contender in a process of its own, and a look at whether the broker has every task."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from benchmarks.backlog import Backlog, copied_slot
from benchmarks.contenders import Contender
from benchmarks.job import Job, Outcome
from benchmarks.queues import empty_queue
from benchmarks.recvlogical import drain_by_recvlogical
from benchmarks.samples import DrainSample
from benchmarks.servers import Servers

ROOT = Path(__file__).parent.parent
_DEADLINE_SECONDS = 600


def run_drain(
    servers: Servers, backlog: Backlog, contender: Contender, events: int, round_number: int
) -> DrainSample:
    """Let *contender* drain *events* of *backlog*.

    Raises:
        RuntimeError: it failed, or the broker does not have exactly one message for each task.
    """
    shape = backlog.shape
    with (
        copied_slot(servers.postgres, backlog, events) as slot,
        # The messages of millions of rows would not fit in Valkey's memory, and only the producer is measured. A
        # RabbitMQ queue without a consumer gets slower with its length (its process collects garbage among all
        # messages), which would favour contenders that enqueue fewer, such as delay().
        empty_queue(
            servers, contender.broker, reap=contender.broker != "valkey" or shape.name == "huge"
        ) as queue,
    ):
        job = Job(
            work=contender.work,
            broker=contender.broker,
            broker_url=queue.url,
            postgres_url=servers.postgres.url(backlog.database),
            slot=slot,
            end=int(backlog.end),
            events=events,
            table=shape.table,
            column=shape.column,
            unwatched=shape.unwatched,
            native=contender.native,
        )
        before = servers.cpu_seconds()
        if contender.work == "recvlogical":
            outcome = drain_by_recvlogical(servers.postgres, backlog.database, job)
        else:
            outcome = _drain_in_process(job)
        after = servers.cpu_seconds()
        queue.expect(contender.tasks_per_event * events)
    return DrainSample(
        shape=shape.name,
        contender=contender.name,
        round=round_number,
        events=outcome.events,
        seconds=outcome.seconds,
        cpu_seconds=outcome.cpu_seconds,
        peak_bytes=outcome.peak_bytes,
        ways=outcome.ways,
        server_cpu_seconds=None if before is None or after is None else after - before,
    )


def _drain_in_process(job: Job) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.drain"],
        input=msgspec.json.encode(job),
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **({} if job.native else {"WALEX_NATIVE": "0"})},
        timeout=_DEADLINE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{job.work} to {job.broker} failed:\n{done.stderr.decode(errors='replace')}")
    return msgspec.json.decode(done.stdout, type=Outcome)
