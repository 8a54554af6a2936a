"""Handlers that fail: halt, retry, dead letter; per application and per handler (promises 1, 2, 6, 8, 9)."""

from __future__ import annotations

import logging
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.support import SENDER_TIMEOUT_SECONDS, Database, wait_until
from tests.support.producers import make_app, running
from tests.support.queues import drain
from tests.support.shop import make_walex
from tests.support.slots import confirmed, written
from walex_celery import (
    ConfigurationError,
    DeadLetter,
    Event,
    Halt,
    HandlerError,
    Producer,
    Retry,
    SetupError,
    Spool,
    StreamMessage,
    WalEx,
    process_message_async,
)
from walex_celery.dead_letters import Letter, open_dead_letters, schema_sql
from walex_celery.handlers.policies import on_error_of

SCHEMA = """
CREATE TABLE items (id int PRIMARY KEY, note text);
CREATE TABLE orders (id int PRIMARY KEY);
CREATE PUBLICATION events FOR ALL TABLES;
"""
PASSWORD = "correct-horse"


@pytest.fixture
def shop(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    database.execute(SCHEMA)
    for statement in schema_sql():
        database.execute(statement)
    return database


class Fragile:
    """A batch handler that fails on the row *id* for the first *times* calls."""

    def __init__(self, id: int = 2, times: int = 1_000_000, text: str = "as it does") -> None:
        self.id, self.left, self.text = id, times, text
        self.calls: list[list[int]] = []
        self.__name__ = "fragile"

    def __call__(self, events: list[Event]) -> None:
        ids = [event.new_record["id"] for event in events]
        self.calls.append(ids)
        if self.id in ids and self.left:
            self.left -= 1
            events.clear()
            raise ZeroDivisionError(self.text)


def letters_of(walex: WalEx) -> list[Letter]:
    with open_dead_letters(walex.settings) as letters:
        return letters.summaries()


@dataclass
class Halted:
    error: HandlerError = field(default_factory=HandlerError)


@contextmanager
def until_halted(walex: WalEx) -> Iterator[Halted]:
    """A producer in a thread; at the end it is waited for until it has raised HandlerError."""
    producer, halted = Producer(walex), Halted()

    def run() -> None:
        try:
            producer.run()
        except HandlerError as error:
            halted.error = error

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(producer.streaming.is_set, 20)
        yield halted
        thread.join(20)
        assert halted.error.args, "it halted"
    finally:
        producer.stop()
        thread.join(20)
        assert not thread.is_alive()


def acknowledged(database: Database) -> None:
    end = written(database)
    wait_until(lambda: confirmed(database) >= end, 20, "all is acknowledged")


@pytest.mark.parametrize(
    ("durable", "said"),
    [(True, "it comes again at the next start"), (False, "it does not come again")],
)
def test_the_error_says_whether_the_transaction_comes_again(
    app: Celery, shop: Database, durable: bool, said: str
) -> None:
    walex = make_walex(app, shop, durable_slot=durable)
    walex.on_insert("items")(Fragile())
    with until_halted(walex) as halted:
        shop.execute("INSERT INTO items VALUES (2)")
    assert said in str(halted.error)
    assert ("WALEX_DURABLE_SLOT=true" in str(halted.error)) is not durable


# What a policy looks like.


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("halt", Halt()),
        ("dead_letter", DeadLetter()),
        ("retry", Retry()),
        (" Retry: limit = 3 , backoff=0.5,backoff_max=2,then=dead_letter", Retry(3, 0.5, 2, "dead_letter")),
        ("retry:limit=none", Retry(limit=None)),
    ],
)
def test_a_policy_as_text(text: str, policy: Halt | Retry | DeadLetter) -> None:
    assert on_error_of(text) == policy
    assert on_error_of(str(policy)) == policy
    assert on_error_of(policy) is policy


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("ignore", "'ignore' is no policy"),
        ("halt:now", "is no policy"),
        ("retry:times=3", "no 'times'; it has limit, backoff, backoff_max, then"),
        ("retry:limit=many", "limit: 'many' is not a number"),
        ("retry:limit=0", "1 or more"),
        ("retry:backoff=nan", "seconds above 0"),
        ("retry:then=retry", "neither 'halt' nor 'dead_letter'"),
        (None, "is no policy"),
    ],
)
def test_a_wrong_policy_is_told_before_anything_is_touched(
    wrong: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=text):
        on_error_of(wrong)
    if isinstance(wrong, str):
        walex = WalEx(Celery("shop", set_as_current=False), url="postgresql://h/d", publication="events")
        with pytest.raises(ConfigurationError, match=f"on_error: .*{text}"):
            walex.on_insert("items", on_error=wrong)(print)
        monkeypatch.setenv("WALEX_ON_ERROR", wrong)
        with pytest.raises(ConfigurationError, match=r"on_error: .*WALEX_ON_ERROR"):
            walex.settings  # noqa: B018


def test_the_application_s_policy_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALEX_ON_ERROR", "retry:limit=2,then=dead_letter")
    walex = WalEx(Celery("shop", set_as_current=False), url="postgresql://h/d", publication="events")
    assert walex.settings.on_error == Retry(limit=2, then="dead_letter")


# Halt.


def test_halt_tells_what_failed_where_and_what_to_do(shop: Database, app: Celery) -> None:
    walex = make_walex(app, shop)
    walex.on_insert("items")(Fragile())
    with until_halted(walex) as halted:
        shop.execute("INSERT INTO items VALUES (1)")
        acknowledged(shop)
        before = confirmed(shop)
        shop.execute("INSERT INTO items SELECT generate_series(2, 3)")
    text = str(halted.error)
    for part in (
        "fragile failed on 2 event(s) of transaction",
        f"at LSN {before >> 32:X}/",
        "ZeroDivisionError: as it does",
        "<Event insert items id=2 lsn=",
        "to <Event insert items id=3 lsn=",
        "policy: on_error=halt",
        'on_error="dead_letter"',
    ):
        assert part in text
    assert halted.error.traceback.startswith("Traceback (most recent call last):\n  File")
    assert "calling.py" not in halted.error.traceback
    # What came before is acknowledged, and nothing of it.
    assert before <= confirmed(shop) < written(shop)
    assert letters_of(walex) == []


# Retry.


def test_retry_calls_the_failed_handler_again_and_no_other(
    shop: Database, app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    walex = make_walex(app, shop, on_error=Retry(limit=3, backoff=0.01))
    earlier, fragile, later = Fragile(id=0), Fragile(times=2), Fragile(id=0)
    walex.on_insert("items", functions=["shop.index"])(earlier)
    walex.on_insert("items")(fragile)
    walex.on_insert("items")(later)
    with caplog.at_level(logging.INFO, "walex_celery"), running(walex) as producer:
        shop.execute("INSERT INTO items VALUES (2), (3)")
        acknowledged(shop)
        assert [tally.errors for _, tally in producer.statistics.handlers()] == [2]
    assert (earlier.calls, fragile.calls, later.calls) == ([[2, 3]], [[2, 3]] * 3, [[2, 3]])
    assert len(drain(app.conf.broker_url, "celery")) == 2
    tries = [record for record in caplog.records if "trying again in" in record.getMessage()]
    assert [vars(record)["try"] for record in tries] == [1, 2]
    for record in tries:
        assert record.levelno == logging.WARNING
        assert {"lsn", "xid", "table", "handler"} <= vars(record).keys()
        assert "of 4; trying again" in record.getMessage()
        assert "as it does" not in record.getMessage(), "an error's text may hold row data"
    assert "succeeded on 2 event(s)" in caplog.text


def test_when_all_tries_have_failed_it_halts_and_the_transaction_comes_again(
    shop: Database, app: Celery
) -> None:
    walex = make_walex(app, shop)
    fragile = Fragile(times=3)
    walex.on_insert("items", on_error=Retry(limit=2, backoff=0.01))(fragile)
    with until_halted(walex) as halted:
        shop.execute("INSERT INTO items VALUES (2)")
    assert "tries: 3 in " in str(halted.error)
    assert fragile.calls == [[2]] * 3
    with running(walex):
        acknowledged(shop)
    assert fragile.calls == [[2]] * 4


def test_stop_while_it_waits_ends_at_once_and_acknowledges_nothing(shop: Database, app: Celery) -> None:
    walex = make_walex(app, shop, on_error=Retry(backoff=300, backoff_max=300))
    fragile = Fragile()
    walex.on_insert("items")(fragile)
    with running(walex):
        shop.execute("INSERT INTO items VALUES (1)")
        acknowledged(shop)
        before = confirmed(shop)
        shop.execute("INSERT INTO items VALUES (2)")
        wait_until(lambda: [2] in fragile.calls)
        began = time.monotonic()
    assert time.monotonic() - began < 15
    assert before <= confirmed(shop) < written(shop)
    fragile.left = 0
    with running(walex):
        acknowledged(shop)
    assert fragile.calls == [[1], [2], [2]]


def test_the_slot_is_kept_while_it_waits(shop: Database, app: Celery) -> None:
    """Promise 6: for longer than wal_sender_timeout."""
    shop.execute(f"ALTER DATABASE {shop.name} SET wal_sender_timeout = '{SENDER_TIMEOUT_SECONDS}s'")
    walex = make_walex(app, shop, on_error=Retry(limit=1, backoff=20))
    fragile = Fragile(times=1)
    walex.on_insert("items")(fragile)
    with running(walex) as producer:
        pid = shop.execute("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", ["shop_walex"])
        shop.execute("INSERT INTO items VALUES (2)")
        wait_until(lambda: len(fragile.calls) == 2, 36)
        acknowledged(shop)
        assert (
            shop.execute("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", ["shop_walex"])
            == pid
        )
        assert producer.statistics.connects == 1


# Dead letters.


@pytest.mark.parametrize("way", ["stream", "middleware", "spool"])
def test_a_dead_letter_is_stored_and_the_stream_goes_on(
    shop: Database, app: Celery, tmp_path: Path, way: str
) -> None:
    """The other handlers are called, and the event's tasks are enqueued."""

    def hand_on(message: StreamMessage, name: str) -> None:
        process_message_async(message, name)

    middleware = {"stream": None, "middleware": hand_on, "spool": Spool(tmp_path / "spool")}[way]
    walex = make_walex(app, shop, on_error="dead_letter", message_middleware=middleware)
    fragile, later = Fragile(), Fragile(id=0)
    walex.on_insert("items", functions=["shop.index"])(fragile)
    walex.on_insert("items")(later)
    with running(walex) as producer:
        shop.execute("INSERT INTO items VALUES (1)")
        shop.execute("INSERT INTO items VALUES (2), (3)")
        shop.execute("INSERT INTO items VALUES (4)")
        wait_until(lambda: [4] in later.calls, 20)
        acknowledged(shop)
        assert dict(producer.statistics.dead_letters()) == {"tests.pipeline.test_on_error.fragile": 1}
        status = producer.snapshot()
        assert status is not None
        assert status.dead_letters == 1
    assert fragile.calls == later.calls == [[1], [2, 3], [4]]
    assert [task.event.key for task in drain(app.conf.broker_url, "celery")] == [
        {"id": number} for number in (1, 2, 3, 4)
    ]
    (letter,) = letters_of(walex)
    assert (letter.kind, letter.handler, letter.registration) == (
        "batch",
        "tests.pipeline.test_on_error.fragile",
        "on_insert(items)",
    )
    assert (letter.tables, letter.event_count, letter.index, letter.tries) == (("items",), 2, 0, 1)
    assert (letter.error_type, letter.error) == ("ZeroDivisionError", "as it does")
    assert letter.traceback.endswith("ZeroDivisionError: as it does")


def test_a_handler_s_own_policy_wins_over_the_application_s(shop: Database, app: Celery) -> None:
    walex = make_walex(app, shop, on_error="dead_letter")
    lenient, strict = Fragile(id=1), Fragile(id=2)
    walex.on_insert("items")(lenient)
    walex.on_insert("items", on_error="halt")(strict)
    with until_halted(walex) as halted:
        shop.execute("INSERT INTO items VALUES (1)")
        acknowledged(shop)
        assert len(letters_of(walex)) == 1
        shop.execute("INSERT INTO items VALUES (2)")
    assert "on_error=halt" in str(halted.error)


def test_retry_then_dead_letter(shop: Database, app: Celery) -> None:
    walex = make_walex(app, shop, on_error=Retry(limit=2, backoff=0.01, then="dead_letter"))
    fragile = Fragile()
    walex.on_insert("items")(fragile)
    with running(walex):
        shop.execute("INSERT INTO items VALUES (2)")
        acknowledged(shop)
    (letter,) = letters_of(walex)
    assert (letter.tries, fragile.calls) == (3, [[2]] * 3)


def test_two_registrations_of_one_function_are_two_letters(shop: Database, app: Celery) -> None:
    walex = make_walex(app, shop, on_error="dead_letter")
    for register in (walex.on_insert("items"), walex.on_event("all"), walex.on_event("all")):
        register(Fragile())
    with running(walex):
        shop.execute("INSERT INTO items VALUES (2)")
        acknowledged(shop)
    assert {letter.registration for letter in letters_of(walex)} == {
        "on_insert(items)",
        "on_event(all)",
        "on_event(all) #2",
    }


def test_own_tables_make_no_events(shop: Database, app: Celery) -> None:
    """The publication is FOR ALL TABLES, all are subscribed to, and the handler fails on each insert."""
    walex = make_walex(app, shop, subscriptions=["*"], on_error="dead_letter")
    seen: list[str] = []

    @walex.on_event("all")
    def everything(events: list[Event]) -> None:
        seen.extend(event.source.full_name for event in events)
        raise ZeroDivisionError

    with running(walex):
        shop.execute("INSERT INTO items VALUES (1)")
        acknowledged(shop)
        shop.execute("INSERT INTO orders VALUES (1)")
        acknowledged(shop)
    assert seen == ["items", "orders"]
    assert len(letters_of(walex)) == 2
    with pytest.raises(ConfigurationError, match=r"walex\.dead_letters: .* make no events"):
        make_walex(make_app("memory://"), shop, subscriptions=["walex.dead_letters"]).settings  # noqa: B018


def test_a_role_that_may_not_write_keeps_them_in_a_file(
    shop: Database,
    app: Celery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    role = f"{shop.name}_role"
    shop.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD '{PASSWORD}'")
    try:
        url = shop.server.url(shop.name, user=role, password=PASSWORD)
        walex = make_walex(app, shop, url=url, on_error="dead_letter")
        walex.on_insert("items")(Fragile())
        with caplog.at_level(logging.INFO, "walex_celery"), running(walex):
            shop.execute("INSERT INTO items VALUES (2, 'ö')")
            acknowledged(shop)
        file = tmp_path / "walex" / "shop.dead-letters.sqlite3"
        assert "the role may not write to walex.dead_letters" in caplog.text
        assert f"dead letters go to file {file}" in caplog.text
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        with open_dead_letters(walex.settings) as letters:
            (letter,) = letters.summaries()
            _, whole = letters.find(letter.id)
        (event,) = [Event.from_json(text) for text in whole.events]
        assert event.new_record == {"id": 2, "note": "ö"}
        assert shop.execute("SELECT count(*) FROM walex.dead_letters") == [(0,)]
    finally:
        shop.execute("SELECT pg_drop_replication_slot(%s)", ["shop_walex"])
        shop.execute(f"DROP ROLE {role}")


def test_no_table_where_the_setting_wants_it_is_told_before_the_slot_is_made(
    database: Database, app: Celery
) -> None:
    """Promise 8."""
    database.execute(SCHEMA)
    walex = make_walex(app, database, dead_letters="postgres")
    walex.on_insert("items", on_error="dead_letter")(Fragile())
    with pytest.raises(SetupError, match=r"walex\.dead_letters is missing(.|\n)*walex setup"), running(walex):
        raise AssertionError("it streams")
    assert not database.execute("SELECT FROM pg_replication_slots WHERE slot_name = %s", ["shop_walex"])


def test_a_store_that_is_away_is_waited_for(
    shop: Database, app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 1: nothing is acknowledged before its dead letter is stored."""
    walex = make_walex(app, shop, on_error="dead_letter")
    walex.on_insert("items")(Fragile())
    with caplog.at_level(logging.ERROR, "walex_celery"), running(walex):
        shop.execute("ALTER TABLE walex.dead_letters RENAME TO away")
        shop.execute("INSERT INTO items VALUES (2)")
        end = written(shop)
        wait_until(lambda: "walex setup" in caplog.text, 20)
        assert confirmed(shop) < end
        shop.execute("ALTER TABLE walex.away RENAME TO dead_letters")
        wait_until(lambda: confirmed(shop) >= end, 20)
    assert len(letters_of(walex)) == 1


def test_a_stop_while_the_store_is_away_acknowledges_nothing(
    shop: Database, app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 1: what failed comes again, and is a letter then."""
    walex = make_walex(app, shop, on_error="dead_letter")
    walex.on_insert("items")(Fragile())
    with caplog.at_level(logging.ERROR, "walex_celery"), running(walex):
        shop.execute("ALTER TABLE walex.dead_letters RENAME TO away")
        shop.execute("INSERT INTO items VALUES (2)")
        end = written(shop)
        wait_until(lambda: "walex setup" in caplog.text, 20)
    assert confirmed(shop) < end
    shop.execute("ALTER TABLE walex.away RENAME TO dead_letters")
    assert letters_of(walex) == []
    with running(walex):
        acknowledged(shop)
    assert len(letters_of(walex)) == 1


def test_a_store_that_stays_away_halts_with_both_reasons(shop: Database, app: Celery) -> None:
    """Promise 1: after ``reconnect_timeout``, and nothing is acknowledged."""
    walex = make_walex(app, shop, on_error="dead_letter", reconnect_timeout=1)
    walex.on_insert("items")(Fragile())
    with until_halted(walex) as halted:
        shop.execute("ALTER TABLE walex.dead_letters RENAME TO away")
        shop.execute("INSERT INTO items VALUES (2)")
        end = written(shop)
    text = str(halted.error)
    assert "fragile failed on 1 event" in text
    assert "the dead letter could not be stored: dead letters: table walex.dead_letters" in text
    assert confirmed(shop) < end


def test_a_task_that_can_t_be_made_of_an_event_is_a_dead_letter_too(shop: Database, app: Celery) -> None:
    """A router that raises. The event's other tasks are enqueued."""

    def route(name: str, args: Any, *_: Any, **__: Any) -> None:
        if name == "shop.index" and Event.from_json(args[0]["__value__"]).index == 1:
            raise LookupError("no queue for it")

    app.conf.task_routes = (route,)
    walex = make_walex(app, shop, on_error="dead_letter")
    walex.on_insert("items", functions=["shop.index", "shop.mail"])(Fragile(id=0))
    with running(walex):
        shop.execute("INSERT INTO items VALUES (1), (2)")
        acknowledged(shop)
    queued = drain(app.conf.broker_url, "celery")
    assert [(task.name, task.event.index) for task in queued] == [
        ("shop.index", 0), ("shop.mail", 0), ("shop.mail", 1)
    ]  # fmt: skip
    (letter,) = letters_of(walex)
    assert (letter.kind, letter.handler, letter.error) == ("task", "shop.index", "no queue for it")
    assert letter.task_id[:27] == queued[2].id[:27], "the id that it would have had: position, then function"


def test_secrets_are_in_no_letter_log_or_error(
    shop: Database, app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    """Promise 9: a handler's exception may quote the url that it connected to."""
    backend = app.conf["result_backend"] = f"redis://:{PASSWORD}@localhost/0"
    text = f"can't connect to {shop.url} or {backend}"
    assert shop.server.password in text
    walex = make_walex(app, shop)
    walex.on_insert("items", on_error="dead_letter")(Fragile(id=1, text=text))
    walex.on_insert("items")(Fragile(id=2, text=text))
    with caplog.at_level(logging.DEBUG, "walex_celery"), until_halted(walex) as halted:
        shop.execute("INSERT INTO items VALUES (1)")
        acknowledged(shop)
        shop.execute("INSERT INTO items VALUES (2)")
    (letter,) = letters_of(walex)
    everything = (letter.error, letter.traceback, str(halted.error), halted.error.traceback, caplog.text)
    for text in everything:
        assert shop.server.password not in text
        assert PASSWORD not in text
    assert "***" in letter.error


def test_a_policy_can_be_changed_while_it_runs(shop: Database, app: Celery) -> None:
    walex = make_walex(app, shop)
    fragile = Fragile()
    walex.on_insert("items")(fragile)
    with running(walex):
        walex.replace_config("on_error", "dead_letter")
        shop.execute("INSERT INTO items VALUES (1)")
        acknowledged(shop)
        shop.execute("INSERT INTO items VALUES (2)")
        acknowledged(shop)
    assert len(letters_of(walex)) == 1
