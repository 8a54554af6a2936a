"""A producer that starts says which of its functions no running worker knows (promise 8)."""

from __future__ import annotations

import logging

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import make_app, running, working
from tests.support.shop import make_walex
from walex_celery import Event, WalEx
from walex_celery.operations.monitor.flower import Presence
from walex_celery.operations.monitor.workers_know import WorkersKnow


@pytest.fixture
def walex(broker_url: str, shop: Database) -> WalEx:
    """Its inserts are enqueued as the task ``index``."""
    app = make_app(broker_url)
    walex = make_walex(app, shop, slot_name=shop.name)

    @walex.on_insert("items")
    @app.task(name="index", shared=False)
    def index(event: Event) -> None: ...

    return walex


def worker_of(walex: WalEx, *tasks: str) -> Celery:
    """Another checkout of the code, whose workers know *tasks*, on the same broker."""
    app = make_app(walex.app.conf.broker_url)
    app.conf.broker_heartbeat = 1
    for name in tasks:

        @app.task(name=name, shared=False)
        def task(event: object) -> None: ...

    return app


def asked(walex: WalEx, caplog: pytest.LogCaptureFixture) -> str:
    """What a producer that starts says, once its workers have been asked; it is in their mailbox itself."""
    with (
        caplog.at_level(logging.DEBUG, "walex_celery"),
        running(walex) as producer,
        Presence(walex.app, walex, producer),
        WorkersKnow(walex.app, walex, producer) as asking,
    ):
        wait_until(lambda: not asking._thread.is_alive(), 30, "the workers have been asked")
    assert "could not ask" not in caplog.text
    return "".join(line for line in caplog.messages if "no running worker" in line)


def test_a_task_that_no_worker_knows_is_warned_of(walex: WalEx, caplog: pytest.LogCaptureFixture) -> None:
    with working(worker_of(walex, "another")):
        said = asked(walex, caplog)

    assert said.startswith("no running worker knows task index (")
    assert said.endswith("fix: deploy the workers first: restart them with the code that has the task")
    assert "walex.shop@" not in said, "a producer is no worker"


def test_a_task_that_a_worker_knows_is_not(walex: WalEx, caplog: pytest.LogCaptureFixture) -> None:
    with working(worker_of(walex, "index")):
        assert asked(walex, caplog) == ""


def test_without_workers_nothing_is_said(walex: WalEx, caplog: pytest.LogCaptureFixture) -> None:
    """Tasks wait until one runs."""
    assert asked(walex, caplog) == ""
