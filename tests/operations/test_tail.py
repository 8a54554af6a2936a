"""Events as they happen, without a handler, a task or the producer's slot."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import pytest

from tests import messages as m
from tests.pipeline.test_assembler import USERS, USERS_RELATION, Listener, on
from tests.support import Database, wait_until
from walex_celery import ConfigurationError, Event
from walex_celery.errors import PublicationMissing
from walex_celery.operations.tail import render_event, tail
from walex_celery.settings.model import WalExSettings, load_settings

SLOTS = "SELECT slot_name, temporary FROM pg_replication_slots WHERE database = current_database()"


@pytest.fixture
def settings(database: Database) -> WalExSettings:
    database.execute(
        "CREATE TABLE users (id int PRIMARY KEY, name text); CREATE TABLE orders (id int);"
        " CREATE PUBLICATION events FOR ALL TABLES"
    )
    given = {"name": "shop", "url": database.url, "publication": "events", "subscriptions": ["users"]}
    return load_settings({**given, "durable_slot": True}, {})


def following(settings: WalExSettings, database: Database, statement: str, *tables: str) -> Iterator[Event]:
    """The events from *statement* on."""
    return tail(settings, tables, threading.Event(), started=lambda: database.execute(statement))


def test_events_come_in_order_from_the_start_on(settings: WalExSettings, database: Database) -> None:
    database.execute("INSERT INTO users VALUES (1)")
    events = following(
        settings, database, "INSERT INTO orders VALUES (1); INSERT INTO users VALUES (2); DELETE FROM users"
    )

    assert [(event.type, event.key) for event in islice(events, 3)] == [
        ("insert", {"id": 2}),
        ("delete", {"id": 1}),
        ("delete", {"id": 2}),
    ]
    ((slot, temporary),) = database.execute(SLOTS)
    assert slot.startswith("walex_tail_")
    assert temporary

    events.close()  # type: ignore[attr-defined]
    wait_until(lambda: database.execute(SLOTS) == [])


def test_tables_may_be_named(settings: WalExSettings, database: Database) -> None:
    events = following(
        settings, database, "INSERT INTO users VALUES (1); INSERT INTO orders VALUES (1)", "public:orders"
    )

    assert next(events).name == "orders"
    events.close()  # type: ignore[attr-defined]


def test_messages_and_truncates_come_too(settings: WalExSettings, database: Database) -> None:
    events = following(
        settings, database, "SELECT pg_logical_emit_message(false, 'audit', 'seen'); TRUNCATE users"
    )

    message, truncate = islice(events, 2)
    assert (message.type, message.content, truncate.type) == ("message", b"seen", "truncate")
    events.close()  # type: ignore[attr-defined]


def test_it_stops_when_told(settings: WalExSettings, database: Database) -> None:
    stopping = threading.Event()

    assert list(tail(settings, (), stopping, started=stopping.set)) == []
    wait_until(lambda: database.execute(SLOTS) == [])


def test_what_can_not_be_followed_is_an_error(settings: WalExSettings, database: Database) -> None:
    with pytest.raises(ConfigurationError, match="names no table"):
        next(following(settings, database, "SELECT", "sales."))
    database.execute("DROP PUBLICATION events")
    with pytest.raises(PublicationMissing):
        next(following(settings, database, "SELECT"))
    assert database.execute(SLOTS) == []


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (m.insert(USERS, b"1", None), "00:00:00.000 insert   users 0/16B3748 id=1 name=NULL"),
        (m.insert(USERS, b"1", b"x" * 99), f"00:00:00.000 insert   users 0/16B3748 id=1 name={'x' * 59}…"),
        (
            m.insert(USERS, b"1", b"a\n\x1b[2J\xff"),
            r"00:00:00.000 insert   users 0/16B3748 id=1 name=a\n\x1b[2J\udcff",
        ),
        (
            m.update(USERS, [b"1", b"b"], old=[b"1", b"a"]),
            "00:00:00.000 update   users 0/16B3748 id=1 name='a' -> 'b'",
        ),
        (m.delete(USERS, key=[b"1", None]), "00:00:00.000 delete   users 0/16B3748 id=1"),
        (
            m.truncate(USERS, options=3),
            "00:00:00.000 truncate users 0/16B3748 cascade=yes restart_identity=yes",
        ),
        (m.message("audit", b"\0a"), r"00:00:00.000 message  audit 0/16B3748 content=b'\x00a'"),
    ],
)
def test_a_line_for_people(payload: bytes, line: str) -> None:
    (event,) = Listener(on("on_event"), on("on_message")).events(USERS_RELATION, payload)

    assert render_event(event).plain == line
