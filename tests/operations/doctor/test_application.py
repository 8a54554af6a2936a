"""The Celery application and its workers: each fault made for real, with real workers on a real broker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.operations.doctor.support import ids, only
from tests.operations.support import application, ignore
from tests.support import Database
from tests.support.producers import working
from walex_celery import WalEx
from walex_celery.database.finding import Step
from walex_celery.database.registry import checks_of, make
from walex_celery.operations.doctor import Finding, examine, workers
from walex_celery.operations.doctor import application as checks
from walex_celery.operations.doctor.context import Context


@pytest.fixture
def walex(database: Database, broker_url: str) -> WalEx:
    """An application with one task, whose queue is its own."""
    walex = application(database, broker_url)
    app = walex.app
    app.conf.task_default_queue = "shop"

    @walex.on_insert("users")
    @app.task(shared=False, name="shop.welcome")
    def welcome(event: Any) -> None: ...

    return walex


def look(walex: WalEx) -> list[Finding]:
    """What the checks of the application find that is not fine."""
    context = Context(walex, "celery -A shop")
    found = make(checks_of(checks.__name__), context)
    return [finding for finding in found if finding.severity != "ok"]


def ask(walex: WalEx) -> list[Finding]:
    """What the checks of the workers find, those that are fine too."""
    context = Context(walex, "celery -A shop")
    context.connect_broker()
    try:
        return list(make(checks_of(workers.__name__), context))
    finally:
        context.close()


def other_workers(walex: WalEx, queue: str, *tasks: str) -> Celery:
    """Another code base on the same broker, with *tasks* and workers of *queue*."""
    app = Celery("other", broker=walex.app.conf.broker_url, set_as_current=False)
    app.conf.worker_hijack_root_logger = False
    app.conf.task_default_queue = queue
    for name in tasks:
        app.task(shared=False, name=name)(ignore)
    return app


# The workers.


def test_all_is_well(walex: WalEx) -> None:
    walex.app.conf.worker_hijack_root_logger = False
    with working(walex.app):
        assert ids(ask(walex)) == {
            ("workers_running", "ok"),
            ("queues_consumed", "ok"),
            ("tasks_registered", "ok"),
        }


def test_no_worker_runs(walex: WalEx) -> None:
    findings = ask(walex)
    assert ids(findings) == {("workers_running", "error")}
    assert findings[0].fix == (Step("shell", "celery -A shop worker"),)


def test_no_worker_runs_of_another_queue(walex: WalEx) -> None:
    @walex.on_insert("users")
    @walex.app.task(shared=False, name="shop.mail")
    def mail(event: Any) -> None: ...

    walex.app.conf.task_routes = {"shop.mail": {"queue": "mails"}}
    assert only(ask(walex), "workers_running").fix == (
        Step("shell", "celery -A shop worker -Q mails,shop -n mails@%h"),
    )


def test_no_worker_is_needed_for_batch_handlers(database: Database, redis_url: str) -> None:
    walex = application(database, redis_url)
    walex.on_insert("users")(ignore)
    assert ids(ask(walex)) == {("workers_running", "ok")}


def test_a_queue_without_consumers(walex: WalEx) -> None:
    with working(other_workers(walex, "another", "shop.welcome")):
        findings = [finding for finding in ask(walex) if finding.severity != "ok"]
    assert ids(findings) == {("queues_consumed", "error")}
    assert "no worker consumes queue 'shop', which shop.welcome goes to" in findings[0].sentence
    assert findings[0].fix == (Step("shell", "celery -A shop worker"),), "its default queue"


def test_a_worker_that_does_not_know_the_task(walex: WalEx) -> None:
    with working(other_workers(walex, "shop")):
        findings = [finding for finding in ask(walex) if finding.severity != "ok"]
    assert ids(findings) == {("tasks_registered", "error")}
    assert "does not know task shop.welcome: it discards it" in findings[0].sentence


def test_the_broker_is_down(database: Database) -> None:
    walex = application(database, "redis://:sesame-open@127.0.0.1:1/0")
    walex.on_insert("users")(ignore)
    database.execute("CREATE TABLE users (id int PRIMARY KEY)")
    database.execute("CREATE PUBLICATION events FOR TABLE users")
    began = time.monotonic()
    findings = examine(walex, "celery -A shop")
    assert time.monotonic() - began < 10
    assert only(findings, "broker").severity == "error"
    assert only(findings, "broker").fix == (Step("do", "Start the broker, or correct broker_url"),)
    assert "sesame-open" not in repr(findings)
    assert only(findings, "tables_published").severity == "ok", "the rest goes on"
    assert not [finding for finding in findings if finding.check == "workers_running"]


# The application.


def test_nothing_is_found_in_an_application_that_is_right(walex: WalEx) -> None:
    assert look(walex) == []


def test_no_handler(database: Database, redis_url: str) -> None:
    findings = look(application(database, redis_url, subscriptions=["*"]))
    assert ids(findings) == {("handlers_exist", "warning")}
    durable = look(application(database, redis_url, subscriptions=["*"], durable_slot=True))
    assert ids(durable) == {("handlers_exist", "error")}


def test_a_handler_of_a_table_that_is_not_subscribed_to(walex: WalEx) -> None:
    walex.on_delete("sales.orders")(ignore)
    findings = look(walex)
    assert ids(findings) == {("handlers_subscribed", "error")}
    assert findings[0].fix == (Step("python", "subscriptions=[..., 'sales.orders']"),)


def test_a_handler_of_all_tables_and_no_subscription(database: Database, redis_url: str) -> None:
    walex = application(database, redis_url, subscriptions=[])
    walex.on_event("all")(ignore)
    assert ids(look(walex)) == {("handlers_subscribed", "error")}


def test_a_subscription_without_a_handler(database: Database, redis_url: str) -> None:
    walex = application(database, redis_url, subscriptions=["users", "orders"])
    walex.on_insert("users")(ignore)
    findings = look(walex)
    assert ids(findings) == {("subscriptions_handled", "info")}
    assert "orders is subscribed to, but has no handler" in findings[0].sentence


def test_a_function_that_is_no_task(walex: WalEx) -> None:
    walex.on_insert("users", None, ["no_such_function"])(ignore)
    findings = look(walex)
    assert ("functions", "error") in ids(findings)
    assert "no function 'no_such_function'" in only(findings, "functions").sentence


def test_a_function_that_is_known_by_its_name_only(walex: WalEx) -> None:
    walex.on_insert("users", None, ["crm.tasks.add"])(ignore)
    found = only(look(walex), "functions_known")
    assert found.severity == "warning"
    assert "task crm.tasks.add is not known to this process" in found.sentence


def test_a_task_that_takes_no_event(walex: WalEx) -> None:
    @walex.on_insert("users")
    @walex.app.task(shared=False, name="shop.none")
    def none() -> None: ...

    assert "must take the event as its one argument" in only(look(walex), "functions").sentence


def test_workers_that_accept_no_json(walex: WalEx) -> None:
    walex.app.conf.accept_content = ["msgpack"]
    findings = look(walex)
    assert ids(findings) == {("accept_content", "error")}
    assert findings[0].fix == (Step("python", "app.conf.accept_content = ['json', 'msgpack']"),)


def test_tasks_that_run_in_the_producer(walex: WalEx) -> None:
    walex.app.conf.task_always_eager = True
    assert ids(look(walex)) == {("eager", "warning")}


def test_results_that_are_not_read(walex: WalEx) -> None:
    walex.app.conf["result_backend"] = "rpc://"
    findings = look(walex)
    assert ids(findings) == {("result_backend", "warning")}
    assert "results of shop.welcome" in findings[0].sentence
    walex.app.tasks["shop.welcome"].ignore_result = True
    assert look(walex) == []


@pytest.mark.parametrize(
    "host", ["aws-0-eu-west-1.pooler.supabase.com", "ep-cool-moon-123456-pooler.eu-central-1.aws.neon.tech"]
)
def test_a_poolers_address(database: Database, redis_url: str, host: str) -> None:
    walex = application(database, redis_url, url=f"postgresql://u@{host}/shop")
    walex.on_insert("users")(ignore)
    findings = look(walex)
    assert ids(findings) == {("pooler", "error")}
    assert host in findings[0].sentence


def test_a_library_that_is_too_old(walex: WalEx, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is moved: an old Celery can't be installed beside this one."""
    monkeypatch.setitem(checks._NEEDED, "kombu", (97, 1))
    findings = look(walex)
    assert ids(findings) == {("versions", "error")}
    assert findings[0].fix == (Step("shell", "pip install 'kombu>=97.1'"),)


def test_settings_that_are_wrong(redis_url: str) -> None:
    walex = WalEx(Celery("shop", broker=redis_url, set_as_current=False), port=5432)
    findings = examine(walex, "celery -A shop")
    assert only(findings, "settings").severity == "error"
    assert "publication: missing" in only(findings, "settings").sentence
    assert only(findings, "broker").severity == "ok", "the rest goes on"


def test_an_event_module_that_fails(
    database: Database, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module_of_doctor.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    walex = application(database, redis_url, modules=["broken_module_of_doctor"])
    found = only(examine(walex, "celery -A shop"), "modules")
    assert found.severity == "error"
    assert "ZeroDivisionError: division by zero" in found.sentence


def test_a_task_known_by_its_name_only(walex: WalEx) -> None:
    walex.on_insert("users", functions=["other.code.welcome"])(ignore)
    findings = [finding for finding in look(walex) if finding.check == "functions_known"]
    assert ids(findings) == {("functions_known", "warning")}
    assert "task other.code.welcome is not known to this process" in findings[0].sentence
