"""Applications, producers and workers that run in threads of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from celery import Celery
from celery.contrib.testing.worker import start_worker

from tests.support import wait_until
from walex_celery import Producer, WalEx


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


def unconfirmed(producer: Producer) -> int:
    """How many tasks the broker has not confirmed."""
    status = producer.snapshot()
    assert status is not None
    return status.unconfirmed_tasks
