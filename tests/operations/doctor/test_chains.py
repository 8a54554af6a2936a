"""One cause is one finding: what only follows from it is not reported beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.operations.doctor.support import PASSWORD, Clinic, ids, only
from tests.operations.support import application, ignore
from tests.support import Database
from walex_celery import Filters, WalEx
from walex_celery.database.finding import Step
from walex_celery.operations.doctor import Finding, examine

#: Of a server and a broker that are not what these tests are about, or because no worker runs.
OTHERS = {"broker_durability", "workers_running", "dead_letters", "slot_read"}


def found(walex: WalEx) -> list[Finding]:
    """What the whole examination finds that is not fine."""
    findings = examine(walex, "celery -A shop")
    return [finding for finding in findings if finding.severity != "ok" and finding.check not in OTHERS]


def the_one(walex: WalEx, check: str) -> Finding:
    findings = found(walex)
    assert {finding.check for finding in findings} == {check}, findings
    return only(findings, check)


@pytest.fixture
def make(clinic: Clinic, redis_url: str) -> Callable[..., WalEx]:
    """Makes the healthy application but for its settings."""

    def make(**settings: Any) -> WalEx:
        database = clinic.database
        url = database.server.url(database.name, user=database.name, password=PASSWORD)
        return application(database, redis_url, **{"url": url, "durable_slot": True, **settings})

    return make


def test_a_misspelt_subscription(make: Callable[..., WalEx]) -> None:
    """Not: a handler without subscription, a subscription without handler, something published for nothing."""
    walex = make(subscriptions=["usrs"])
    walex.on_event("users")(ignore)

    finding = the_one(walex, "tables_exist")
    assert finding.severity == "error"
    assert "has no such table (did you mean users?)" in finding.sentence


def test_a_misspelt_table_of_a_handler(make: Callable[..., WalEx]) -> None:
    """Subscribing to it would be the wrong advice."""
    walex = make()
    walex.on_insert("usrs")(ignore)

    finding = the_one(walex, "handlers_subscribed")
    assert "is for usrs, but database" in finding.sentence
    assert "(did you mean users?)" in finding.sentence
    assert finding.fix == (Step("do", "Correct the table in on_insert(usrs)"),)


def test_a_table_misspelt_in_both(make: Callable[..., WalEx]) -> None:
    walex = make(subscriptions=["usrs"])
    walex.on_event("usrs")(ignore)

    assert "(did you mean users?)" in the_one(walex, "tables_exist").sentence


def test_a_handler_that_is_not_subscribed(make: Callable[..., WalEx], clinic: Clinic) -> None:
    """Its table is published for a reason: no advice to take it out of the publication."""
    clinic.execute_all("CREATE TABLE orders (id int PRIMARY KEY); ALTER PUBLICATION events ADD TABLE orders")
    walex = make()
    walex.on_insert("users")(ignore)
    walex.on_insert("orders")(ignore)

    assert the_one(walex, "handlers_subscribed").fix == (Step("python", "subscriptions=[..., 'orders']"),)


def test_no_subscriptions(make: Callable[..., WalEx]) -> None:
    walex = make(subscriptions=[])
    walex.on_insert("users")(ignore)
    walex.on_insert("orders")(ignore)

    assert the_one(walex, "handlers_subscribed").fix == (Step("python", "subscriptions=['users', 'orders']"),)


def test_no_handlers(make: Callable[..., WalEx]) -> None:
    """Nor that each subscription has none."""
    assert ", in shop.events.users, or in a module" in the_one(make(), "handlers_exist").fix[0].line


@pytest.mark.parametrize("name", ["evnts", "event"])
def test_a_misspelt_publication(make: Callable[..., WalEx], name: str) -> None:
    walex = make(publication=name)
    walex.on_insert("users")(ignore)

    assert the_one(walex, "publication_exists").sentence.endswith(" (did you mean 'events'?)")


def test_another_database(make: Callable[..., WalEx], clinic: Clinic, redis_url: str) -> None:
    """Nothing of it is there, and nothing similar."""
    other = Database(clinic.database.server, clinic.database.server.create_database())
    try:
        walex = application(other, redis_url, subscriptions=["users", "orders"])
        walex.on_event("all")(ignore)
        findings = found(walex)
    finally:
        other.server.drop_database(other.name)

    assert {finding.check for finding in findings if finding.severity == "error"} == {"publication_exists"}
    finding = only(findings, "publication_exists")
    assert finding.sentence == (
        f"database {other.name!r} has neither publication 'events' nor tables users, orders"
    )
    assert finding.fix[0].line.startswith("Correct database= (or the url)")


def test_a_misspelt_column_of_filters_that_handlers_share(make: Callable[..., WalEx]) -> None:
    walex = make()
    quiet = Filters(unwatched_fields=["updatd_at"])

    @walex.on_insert("users", quiet)
    def inserted(events: list[Any]) -> None: ...

    @walex.on_update("users", quiet)
    def updated(events: list[Any]) -> None: ...

    finding = the_one(walex, "filter_columns")
    assert "inserted" in finding.sentence
    assert "updated name updatd_at" in finding.sentence
    assert finding.sentence.endswith("(did you mean updated_at?)")
    assert finding.fix[0].line.endswith(" of on_insert(users), on_update(users)")


def test_a_misspelt_slot(make: Callable[..., WalEx], clinic: Clinic) -> None:
    clinic.leave()
    walex = make(slot_name=f"{clinic.database.name}x")
    walex.on_insert("users")(ignore)

    assert (
        f"does not exist (did you mean {clinic.database.name!r}?)" in the_one(walex, "slot_exists").sentence
    )


def test_a_misspelt_function(make: Callable[..., WalEx]) -> None:
    """Not also: what could not be checked without it."""
    walex = make()
    for decorator in (walex.on_insert, walex.on_update):
        decorator("users", None, ["no_such_function"])(ignore)

    assert "no function 'no_such_function'" in the_one(walex, "functions").sentence


def test_a_wrong_setting_that_event_modules_need_too(make: Callable[..., WalEx]) -> None:
    walex = make(subscriptions=[5])

    assert "5 names no table" in the_one(walex, "settings").sentence


def test_eager_tasks_need_no_worker(make: Callable[..., WalEx]) -> None:
    walex = make()
    walex.app.conf.task_always_eager = True

    @walex.on_insert("users")
    @walex.app.task(shared=False, name="shop.welcome")
    def welcome(event: Any) -> None: ...

    findings = examine(walex, "celery -A shop")
    assert ("eager", "warning") in ids(findings)
    assert "workers_running" not in {finding.check for finding in findings}


def test_where_postgres_is_down_names_are_compared_with_each_other(
    redis_url: str, database: Database
) -> None:
    walex = application(database, redis_url, url="postgresql://127.0.0.1:1/shop", subscriptions=["usrs"])
    walex.on_insert("users")(ignore)

    assert {finding.check for finding in found(walex)} == {
        "postgres",
        "handlers_subscribed",
    }
