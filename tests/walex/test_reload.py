"""Reading the settings anew: how a password reaches a running producer without going through a broker."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import running
from tests.walex.support import wait_for
from walex_celery import ConfigurationError, Event, WalEx


@pytest.fixture
def dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".env"


def make(app: Celery, database: Database, **settings: object) -> WalEx:
    return WalEx(
        app, name="todos", publication="events", subscriptions=["user"], url=database.url, **settings
    )


def test_what_changed_in_its_source_is_applied_and_what_changed_at_run_time_stays(
    app: Celery, todos: Database, dotenv: Path
) -> None:
    dotenv.write_text("WALEX_SSLMODE=prefer\n")
    walex = make(app, todos)
    assert walex.settings.sslmode == "prefer"
    walex.add_config("subscriptions", "todo")
    heard: list[bool] = []
    walex.listen(lambda: heard.append(True))
    dotenv.write_text("WALEX_SSLMODE=disable\nWALEX_PUBLISH_TIMEOUT=7\n")

    found = walex.reload()

    assert (found.changed, found.needs_restart) == (("sslmode",), ("publish_timeout",))
    assert walex.settings.sslmode == "disable"
    assert [table.name for table in walex.settings.subscriptions] == ["user", "todo"]
    assert walex.settings.publish_timeout == 30
    assert heard == [True]


def test_nothing_is_told_when_nothing_changed(app: Celery, todos: Database, dotenv: Path) -> None:
    walex = make(app, todos)
    before = walex.settings
    heard: list[bool] = []
    walex.listen(lambda: heard.append(True))

    assert walex.reload().changed == ()
    assert walex.settings == before
    assert not heard


def test_a_wrong_setting_is_told_and_changes_nothing(app: Celery, todos: Database, dotenv: Path) -> None:
    walex = make(app, todos)
    before = walex.settings
    dotenv.write_text("WALEX_SSLMODE=perhaps\n")

    with pytest.raises(ConfigurationError, match="sslmode"):
        walex.reload()

    assert walex.settings is before


def test_a_new_password_is_taken_from_the_file_and_mends_the_connection(
    app: Celery, todos: Database, dotenv: Path
) -> None:
    role = f"rotated_{os.urandom(4).hex()}"
    todos.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'first-secret'")
    url = urlsplit(todos.url)
    walex = WalEx(
        app,
        name="todos",
        publication="events",
        subscriptions=["user"],
        username=role,
        hostname=url.hostname,
        port=url.port,
        database=todos.name,
        durable_slot=True,
    )
    dotenv.write_text("WALEX_PASSWORD=first-secret\n")
    events: list[Event] = []
    walex.on_event("user")(events.extend)
    try:
        with running(walex) as producer:
            todos.execute("INSERT INTO \"user\" VALUES (1, 'Chase')")
            wait_for(events, 1)
            todos.execute(f"ALTER ROLE {role} PASSWORD 'second-secret'")
            dotenv.write_text("WALEX_PASSWORD=second-secret\n")

            found = walex.reload()

            assert found.changed == ("password",)
            assert "secret" not in repr(found)
            wait_until(lambda: producer.statistics.connects == 2)
            todos.execute("INSERT INTO \"user\" VALUES (2, 'Chase')")
            wait_for(events, 2)
    finally:
        todos.execute(f"SELECT pg_drop_replication_slot('{walex.settings.slot}')")
        todos.execute(f"DROP ROLE {role}")
