"""What operators do to Postgres while a producer runs, or before it starts: it goes on, or stops and says the fix."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery

from tests.support import Database, wait_until
from tests.support.producers import in_thread, running
from walex_celery import Event, Producer, SetupError, WalEx
from walex_celery.errors import PrivilegeError, PublicationMissing, SlotLost, WalExError
from walex_celery.testing.servers import Postgres

SLOT = "ops_walex"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server that may be stopped, and whose settings may be changed."""
    with Postgres(settings={"fsync": "off", "wal_sender_timeout": "3s"}) as server:
        yield server


class Application:
    """A database with a table, and an application that collects its rows in a batch handler."""

    def __init__(self, server: Postgres, broker_url: str) -> None:
        self.database = Database(server, server.create_database())
        self.database.execute("CREATE TABLE items (id int); CREATE PUBLICATION events FOR TABLE items")
        self.role = f"role_{self.database.name}"
        self.database.execute(f"CREATE ROLE {self.role} LOGIN REPLICATION PASSWORD 'first'")
        self.rows: list[int] = []
        self.may_return = threading.Event()
        self.may_return.set()
        app = Celery("ops", broker=broker_url, set_as_current=False)
        self.walex = WalEx(
            app,
            name="ops",
            hostname="127.0.0.1",
            port=server.port,
            database=self.database.name,
            username=self.role,
            password="first",
            publication="events",
            subscriptions=["items"],
            durable_slot=True,
        )
        self.walex.on_insert("items")(self.handle)

    def handle(self, events: list[Event]) -> None:
        self.rows += [event.new_record["id"] for event in events if event.new_record]
        self.may_return.wait(60)

    def insert(self, row: int) -> None:
        self.database.execute("INSERT INTO items VALUES (%s)", [row])

    def goes_on(self, row: int) -> None:
        """That *row*, inserted now, arrives."""
        self.insert(row)
        wait_until(lambda: row in self.rows, 60, f"row {row}")

    def start_once(self) -> None:
        """Run a producer, and stop it: the slot is there."""
        with running(self.walex):
            pass

    def ends(self, kind: type[WalExError], *steps: Callable[[], object]) -> str:
        """What a producer that streams ends with when *steps* have been done."""
        producer = Producer(self.walex)
        with pytest.raises(kind) as caught:
            self._run(producer, steps)
        assert type(caught.value) is kind
        return str(caught.value)

    def _run(self, producer: Producer, steps: tuple[Callable[[], object], ...]) -> None:
        with in_thread(producer, 60) as failures:
            wait_until(lambda: producer.streaming.is_set() or failures, 30)
            for step in steps:
                step()
            wait_until(lambda: failures, 60, "the producer ends")

    def terminate(self) -> None:
        """End the walsender."""
        self.database.execute(
            "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots WHERE active"
        )


@pytest.fixture
def application(server: Postgres, redis_url: str) -> Iterator[Application]:
    application = Application(server, redis_url)
    yield application
    application.may_return.set()
    server.drop_database(application.database.name)
    Database(server, "postgres").execute(f"DROP ROLE {application.role}")


@contextmanager
def altered(database: Database, **settings: str) -> Iterator[None]:
    """Settings of the server, for as long as the block takes."""
    for name, value in settings.items():
        database.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    database.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        for name in settings:
            database.execute(f"ALTER SYSTEM RESET {name}")
        database.execute("SELECT pg_reload_conf()")


# The slot.


def test_the_slot_is_dropped_while_it_runs(application: Application) -> None:
    drop = (
        "SELECT pg_terminate_backend(active_pid, 10000), pg_drop_replication_slot(slot_name)"
        " FROM pg_replication_slots WHERE active"
    )

    message = application.ends(SlotLost, lambda: application.database.execute(drop))

    assert "was dropped while this producer ran" in message
    assert "fix: start the producer again" in message


def test_the_slot_is_dropped_while_it_is_stopped(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    """That it existed is not known any more: it is made again, and the log says so."""
    application.start_once()
    application.database.execute("SELECT pg_drop_replication_slot(%s)", [SLOT])
    application.insert(1)
    with caplog.at_level(logging.INFO), running(application.walex):
        application.goes_on(2)

    assert application.rows == [2]
    assert f"slot {SLOT} (durable, made now)" in caplog.text


def lose_wal(database: Database) -> bool:
    """Eight files of WAL, and a checkpoint that removes what no slot may keep; whether that cost the slot."""
    for _ in range(8):
        database.execute("SELECT pg_logical_emit_message(false, 'filler', 'x'); SELECT pg_switch_wal()")
    database.execute("CHECKPOINT")
    return lost(database)


def test_the_slot_is_invalidated_while_it_is_not_read(application: Application) -> None:
    application.start_once()
    with altered(application.database, max_slot_wal_keep_size="1MB"):
        assert lose_wal(application.database)

        message = application.ends(SlotLost)

    assert "has removed WAL that it needs (max_slot_wal_keep_size)" in message
    assert f"SELECT pg_drop_replication_slot('{SLOT}')" in message


def test_the_slot_is_invalidated_while_a_handler_is_slow(application: Application) -> None:
    application.may_return.clear()

    def invalidate() -> None:
        application.goes_on(1)
        with altered(application.database, max_slot_wal_keep_size="1MB"):
            wait_until(lambda: lose_wal(application.database), 60, "it is lost")
        application.may_return.set()

    assert "(max_slot_wal_keep_size)" in application.ends(SlotLost, invalidate)


def lost(database: Database) -> bool:
    return bool(
        database.execute(
            "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND wal_status = 'lost'", [SLOT]
        )
    )


def test_the_slot_was_idle_for_too_long(application: Application) -> None:
    application.start_once()
    with altered(application.database, idle_replication_slot_timeout="1s"):
        wait_until(lambda: application.database.execute("CHECKPOINT") or lost(application.database), 30)

    message = application.ends(SlotLost)

    assert "it was not read for idle_replication_slot_timeout" in message
    assert "raise idle_replication_slot_timeout" in message


# The publication.


def test_the_publication_is_dropped_while_it_runs(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Postgres 18 on the walsender skips its changes without an error: the catalog shows it."""
    monkeypatch.setattr("walex_celery.postgres.stream_guard.LOOK_SECONDS", 0.2)

    message = application.ends(
        PublicationMissing, lambda: application.database.execute("DROP PUBLICATION events")
    )

    assert "publication 'events' was dropped while this producer ran" in message


def test_the_publication_is_made_again_at_once(
    application: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("walex_celery.postgres.stream_guard.LOOK_SECONDS", 0.2)
    with caplog.at_level(logging.WARNING), running(application.walex):
        application.goes_on(1)
        application.database.execute(
            "BEGIN; DROP PUBLICATION events; CREATE PUBLICATION events FOR TABLE items; COMMIT"
        )
        wait_until(lambda: "publication events was dropped and made again" in caplog.text, 30)
        application.goes_on(2)

    assert application.rows == [1, 2]


def test_the_publication_is_made_after_the_slot(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    """What was committed before was not published: Postgres 18 skips it; older ones refuse to go on."""
    application.start_once()
    application.database.execute("DROP PUBLICATION events")
    application.insert(1)
    message = application.ends(PublicationMissing)
    assert 'CREATE PUBLICATION "events" FOR TABLE "public"."items"' in message

    application.database.execute(message.partition("fix: ")[2].partition("\n")[0])
    with running(application.walex):
        application.goes_on(2)

    assert application.rows == [2]
    assert "publication 'events' was made or altered after the position" in caplog.text


# The role.


def test_the_password_is_changed_and_put_right_while_it_runs(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), running(application.walex) as producer:
        application.goes_on(0)
        application.database.execute(f"ALTER ROLE {application.role} PASSWORD 'second'")
        application.goes_on(1)
        assert producer.streaming.is_set(), "a connection that is there goes on"

        application.terminate()
        wait_until(lambda: "set the right password=" in caplog.text, 30)
        application.walex.replace_config("password", "second")
        application.goes_on(2)

    assert sorted(set(application.rows)) == [0, 1, 2]
    assert "'first'" not in caplog.text
    assert "second" not in caplog.text.replace("seconds", "")


def test_a_wrong_password_at_the_start(application: Application) -> None:
    application.database.execute(f"ALTER ROLE {application.role} PASSWORD 'second'")

    with pytest.raises(SetupError, match="set the right password="):
        Producer(application.walex).run()


def test_the_replication_attribute_is_revoked(application: Application) -> None:
    message = application.ends(
        PrivilegeError,
        lambda: application.database.execute(f"ALTER ROLE {application.role} NOREPLICATION"),
        lambda: application.goes_on(1),
        application.terminate,
    )

    application.database.execute(message.partition("fix: ")[2].partition(";")[0])
    with running(application.walex):
        application.goes_on(2)


# The server.


def test_the_walsender_is_terminated(application: Application) -> None:
    with running(application.walex):
        application.goes_on(1)
        application.terminate()
        application.goes_on(2)

    assert sorted(set(application.rows)) == [1, 2]


def test_a_fast_shutdown_is_not_kept_waiting_by_a_handler(application: Application) -> None:
    """Postgres waits for each walsender until its receiver has confirmed everything."""
    application.may_return.clear()
    with running(application.walex, timeout=60):
        application.goes_on(1)
        stopping = threading.Thread(target=application.database.server.stop)
        stopping.start()
        stopping.join(30)
        stopped = not stopping.is_alive()
        application.may_return.set()
        stopping.join()
        assert stopped, "Postgres did not stop while the handler ran"
        application.database.server.start()
        application.goes_on(2)


@pytest.mark.parametrize("how", ["fast", "immediate", "kill -9", "crash of a backend"])
def test_the_server_ends_and_comes_back(application: Application, how: Any) -> None:
    server = application.database.server
    with running(application.walex, timeout=60):
        application.goes_on(1)
        if how == "kill -9":
            server.kill()
            server.start()
        elif how == "crash of a backend":
            # All sessions end, and the server recovers by itself.
            ((pid,),) = application.database.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'background writer'"
            )
            os.kill(pid, signal.SIGKILL)
            wait_until(server.ready, 30)
        else:
            server.restart(how)
        application.goes_on(2)
