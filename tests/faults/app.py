"""The application under fire, run in processes of its own: ``celery -A tests.faults.app ...``.

Batch handlers write what they are given to a journal, synced before they return; the task writes that it ran to
a server that no fault touches.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import psycopg2
from celery import Celery, Task
from psycopg2.extensions import connection

from walex_celery import Event, Spool, WalEx
from walex_celery.retry import backoff

# A soak is about many recoveries, not about long waits between tries.
vars(backoff)["LONGEST_SECONDS"] = 1.0

app = Celery("faults", broker=os.environ["FAULTS_BROKER"])
app.conf.update(
    task_default_queue="faults",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
app.conf.update(json.loads(os.environ["FAULTS_CONF"]))

_spool = os.environ.get("FAULTS_SPOOL")
options: dict[str, Any] = json.loads(os.environ["FAULTS_WALEX"])
if _spool:
    options["message_middleware"] = Spool(_spool, max_bytes=1 << 20)
walex = WalEx(
    app,
    name="faults",
    publication="events",
    subscriptions=["items", "sales.orders"],
    durable_slot=True,
    publish_timeout=5,
    log_interval=5,
    **options,
)

_journals = Path(os.environ["FAULTS_JOURNALS"])
_runs: connection | None = None


def _told(event: Event) -> tuple[int, str, int, int]:
    """Index, type, key and version of a change."""
    record = event.old_record if event.type == "delete" else event.new_record
    assert record is not None
    return event.index, str(event.type), record["id"], record["version"]


def _write(table: str, events: list[Event]) -> None:
    times = [events[0].timestamp.timestamp(), time.time()]
    line = json.dumps([os.getpid(), int(events[0].lsn), *times, [_told(event) for event in events]])
    file = os.open(_journals / f"{table}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode() + b"\n")
        os.fsync(file)
    finally:
        os.close(file)


@walex.on_event("items", functions=["faults.record"])
def items_changed(events: list[Event]) -> None:
    """Note the call."""
    _write("items", events)


@walex.on_event("sales.orders", functions=["faults.record"])
def orders_changed(events: list[Event]) -> None:
    """Note the call."""
    _write("sales.orders", events)


@app.task(bind=True, name="faults.record")
def record(task: Task[Any, Any], event: Event) -> None:
    """Note the run, under the id of the task."""
    global _runs  # noqa: PLW0603
    if _runs is None:
        _runs = psycopg2.connect(os.environ["FAULTS_RECORDS"])
        _runs.autocommit = True
    index, type_, key, version = _told(event)
    with _runs.cursor() as cursor:
        cursor.execute(
            "INSERT INTO runs (id, lsn, index, tab, type, key, version, committed) VALUES (%s,%s,%s,%s,%s,%s,%s,%s)",
            (task.request.id, int(event.lsn), index, _table(event), type_, key, version, event.timestamp),
        )


def _table(event: Event) -> str:
    return event.source.table if event.source.schema == "public" else event.source.full_name
