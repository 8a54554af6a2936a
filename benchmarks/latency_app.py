"""The application whose producer and worker are timed: ``celery -A benchmarks.latency_app``.

Set up by variables: BENCH_BROKER_URL, BENCH_POSTGRES_URL and BENCH_TIMES, the file that times are appended to.
"""

from __future__ import annotations

import os
import time

from celery import Celery

from benchmarks.backlog import PUBLICATION
from walex_celery import Event, WalEx

TIMED_QUEUE = "timed"
#: Without a consumer: on few cores a producer can publish thousands of tasks a second, but no worker can run them.
BULK_QUEUE = "bulk"

app = Celery("bench", broker=os.environ.get("BENCH_BROKER_URL"))
app.conf.task_ignore_result = True
app.conf.task_routes = {"bench.bulk": {"queue": BULK_QUEUE}, "bench.*": {"queue": TIMED_QUEUE}}

walex = WalEx(
    app,
    name="bench",
    url=os.environ.get("BENCH_POSTGRES_URL"),
    publication=PUBLICATION,
    subscriptions=["users"],
)


def _keep(seconds: float) -> None:
    """Append a time to the file, in one write: the worker's processes share it."""
    descriptor = os.open(os.environ["BENCH_TIMES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, b"%.6f\n" % seconds)
    finally:
        os.close(descriptor)


# event_subscribe marks timed rows, active marks rows for the bulk queue.


@walex.on_insert("users", {"unwatched_records": {"event_subscribe": False}})
@app.task(name="bench.since_commit")
def since_commit(event: Event) -> None:
    """Keep the time since COMMIT, by the clock of Postgres, which is this machine's."""
    now = time.time()
    _keep(now - event.timestamp.timestamp())


@walex.on_insert("users", {"unwatched_records": {"active": False}})
@app.task(name="bench.bulk")
def bulk(event: Event) -> None:
    """Never runs."""


@app.task(name="bench.since_call")
def since_call(called: float) -> None:
    """Keep the time since ``delay()`` was called."""
    now = time.time()
    _keep(now - called)
