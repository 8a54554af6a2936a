"""Promise 8: what doctor finds in the catalog, the producer logs, at start and while it runs, with the fix."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Database, wait_until
from tests.support.producers import make_app, running
from walex_celery import ConfigurationError, Event, WalEx

TABLES = (
    "CREATE TABLE users (id int PRIMARY KEY, name text); CREATE TABLE other (id int PRIMARY KEY);"
    "CREATE PUBLICATION events FOR TABLE users"
)


def ignore(events: list[Event]) -> None:
    """Handles nothing."""


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    monkeypatch.setattr("walex_celery.postgres.stream_guard.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("walex_celery.pipeline.examination.LARGEST_SHARE", 1)
    with caplog.at_level(logging.INFO):
        yield


def make_walex(database: Database, broker_url: str, **settings: Any) -> WalEx:
    wanted = {"name": "todos", "subscriptions": ["users"], "publication": "events", **settings}
    return WalEx(make_app(broker_url), url=database.server.url(database.name), **wanted)


FAULTS = [
    ("", {"subscriptions": ["user"]}, {}, "no such table (did you mean users?)"),
    ("", {"subscriptions": ["users", "other"]}, {}, "publication events lacks other"),
    ("DROP TABLE users; CREATE TABLE users (id int PRIMARY KEY, name text)", {}, {}, "lacks users"),
    ("ALTER PUBLICATION events DROP TABLE users", {"subscriptions": ["*"]}, {}, "'*' match no table"),
    ("ALTER TABLE users DROP CONSTRAINT users_pkey", {}, {}, "users has no replica identity"),
    ("", {}, {"unwatched_fields": ["name"]}, "the replica identity of users is not FULL"),
    ("", {}, {"unwatched_records": {"nam": "x"}}, "name nam, which users does not have (did you mean name?)"),
    (
        "DROP TABLE users; CREATE TABLE users (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (0) TO (10);"
        "ALTER PUBLICATION events ADD TABLE users_1",
        {},
        {},
        "publication events lacks users",
    ),
]


@pytest.mark.parametrize(("fault", "settings", "filters", "sentence"), FAULTS)
def test_a_fault_is_logged_at_start_with_its_fix(
    database: Database,
    redis_url: str,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    settings: dict[str, Any],
    filters: dict[str, Any],
    sentence: str,
) -> None:
    database.execute(TABLES)
    if fault:
        database.execute(fault)
    walex = make_walex(database, redis_url, **settings)
    walex.on_event("users", filters)(ignore)

    with running(walex):
        wait_until(lambda: sentence in caplog.text, 20, sentence)

    (record,) = [record for record in caplog.records if sentence in record.getMessage()]
    assert record.levelno >= logging.WARNING
    assert "\n  fix: " in record.getMessage()


def test_a_table_dropped_from_the_publication_is_logged_each_time(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute(TABLES)
    arrived: list[Event] = []
    walex = make_walex(database, redis_url)
    walex.on_insert("users")(arrived.extend)
    sentence = "publication events lacks users: their changes don't arrive"

    with running(walex):
        for count in (1, 2):
            database.execute("ALTER PUBLICATION events DROP TABLE users")
            wait_until(lambda: caplog.text.count(sentence) == count, 20)  # noqa: B023 - used at once
            database.execute("ALTER PUBLICATION events ADD TABLE users")
            looked_again(database, caplog, count)
        database.execute("INSERT INTO users VALUES (1)")
        wait_until(lambda: len(arrived) == 1, 20)

    assert caplog.text.count(sentence) == 2


def test_many_findings_of_a_kind_are_counted(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute(TABLES)
    database.execute("".join(f"CREATE TABLE t{number} (id int PRIMARY KEY);" for number in range(30)))
    database.execute("DROP PUBLICATION events; CREATE PUBLICATION events FOR ALL TABLES")
    walex = make_walex(database, redis_url, subscriptions=["*"])
    walex.on_event("all")(ignore)

    with running(walex):
        wait_until(lambda: "22 more findings of old_values" in caplog.text, 20)

    assert caplog.text.count("is not FULL") == 10
    (record,) = [record for record in caplog.records if "more findings" in record.getMessage()]
    assert record.levelno == logging.INFO, "none of them is a warning"


def looked_again(database: Database, caplog: pytest.LogCaptureFixture, count: int) -> None:
    """Wait until the catalog was looked at: a new fault is logged by a look that does not find the fixed one."""
    database.execute("ALTER PUBLICATION events SET (publish = 'delete')")
    wait_until(lambda: caplog.text.count("handlers want insert") == count, 20)
    database.execute("ALTER PUBLICATION events SET (publish = 'insert, update, delete, truncate')")


def test_a_right_catalog_is_not_worth_a_warning(
    database: Database, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute(TABLES)
    walex = make_walex(database, redis_url)
    walex.on_event("users")(ignore)

    with running(walex):
        wait_until(lambda: "the replica identity of users is not FULL" in caplog.text, 20)

    found = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in found if "slot is temporary" not in record.getMessage()] == []


@pytest.mark.parametrize("pattern", ["sales.*", "sales:*", "*.orders", "user*", "sa*.orders"])
def test_a_pattern_is_refused(pattern: str, database: Database, redis_url: str) -> None:
    with pytest.raises(ConfigurationError, match="patterns are not supported"):
        make_walex(database, redis_url, subscriptions=[pattern]).settings  # noqa: B018 - reads them
    with pytest.raises(ConfigurationError, match="patterns are not supported"):
        make_walex(database, redis_url).on_insert(pattern)(ignore)
