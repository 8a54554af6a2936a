"""What the slot as a source knows of earlier connections, and what it acknowledges (promises 1 and 5)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support import Database, wait_until
from tests.support.slots import confirmed_flush, written
from walex_celery import Lsn
from walex_celery.postgres.opening import Read
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.pgoutput import completed_lsn
from walex_celery.settings.model import load_settings
from walex_celery.sources.history import GONE_BACK, Landmark, checksum_of
from walex_celery.sources.slot import Memory, SlotSource, SlotStream
from walex_celery.telemetry.activity import Activity
from walex_celery.testing.servers import Postgres

SLOT = "source_walex"
BEYOND = Lsn(1 << 60)


@pytest.fixture(scope="module")
def quiet() -> Iterator[Postgres]:
    """A server that writes nothing but what these tests do."""
    with Postgres(settings={"fsync": "off", "autovacuum": "off"}) as server:
        yield server


@pytest.fixture
def database(quiet: Postgres) -> Iterator[Database]:
    database = Database(quiet, quiet.create_database())
    database.execute("CREATE TABLE t (id int); CREATE PUBLICATION p FOR TABLE t")
    yield database
    quiet.drop_database(database.name)


@pytest.fixture
def settings(database: Database) -> SlotSettings:
    given = {"name": "source", "url": database.url, "publication": "p", "durable_slot": True}
    return load_settings(given, {}).slot_settings()


class NoPipe:
    """Gets nothing: without a middleware the pipeline processes what :meth:`SlotStream.read` returns."""

    def process(self, payload: bytes) -> None:
        raise AssertionError

    def settle(self) -> None:
        raise AssertionError


class Reading:
    """A source, and what its one stream after the other brings."""

    def __init__(self, settings: SlotSettings) -> None:
        self.settings = settings
        self.source = SlotSource(Activity(), threading.Event())
        self.read = Read()

    def open(self, done: Lsn = Lsn(0)) -> SlotStream:  # noqa: B008 - immutable
        """A stream that has begun."""
        stream = self.source.open(self.settings, self.read, done)
        self.read = Read(self.settings.name, stream.cluster)
        stream.start(done)
        stream.begin(NoPipe())
        return stream


@pytest.fixture
def reading(settings: SlotSettings, database: Database) -> Reading:
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [SLOT])
    return Reading(settings)


def next_end(stream: SlotStream) -> int:
    """The end of the next transaction that the stream brings."""

    def end() -> int | None:
        found = stream.read(pending=False, idle=False, timeout=1, to_boundary=True).payloads
        return completed_lsn(found[-1]) if found else None

    return wait_until(end)


def test_a_temporary_slot_begins_where_it_was_made(settings: SlotSettings, database: Database) -> None:
    """What was done before says nothing of it: Postgres may have gone back."""
    reading = Reading(replace(settings, durable=False))
    stream = reading.open(BEYOND)
    try:
        database.execute("INSERT INTO t VALUES (1)")
        assert next_end(stream) <= written(database)
    finally:
        stream.close()


def test_a_server_that_has_written_no_more_than_what_is_done_has_not_gone_back(
    reading: Reading, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    reading.open().close()
    for _ in range(3):
        stream = reading.open(written(database))
        assert not caplog.messages
        stream.close()


def test_each_time_that_postgres_goes_back_is_noticed(
    reading: Reading, caplog: pytest.LogCaptureFixture
) -> None:
    reading.open().close()
    for times in (1, 2):
        stream = reading.source.open(reading.settings, reading.read, BEYOND)
        assert stream.starts_over
        stream.start(Lsn(0))
        stream.begin(NoPipe())
        stream.close()
        assert sum(GONE_BACK in line for line in caplog.messages) == times


def idle_is_acknowledged(stream: SlotStream, database: Database) -> bool:
    """Whether the slot moves on with a row whose transaction nothing is left to do of, in a few reads.

    Before the first row psycopg2 acknowledges by itself what keepalives say: nothing that is published is lost by that.
    """
    database.execute("INSERT INTO t VALUES (1)")
    end = written(database)
    for _ in range(20):
        stream.read(pending=False, idle=True, timeout=0.2, to_boundary=False)
        if confirmed_flush(database, SLOT) >= end:
            return True
    return False


@pytest.mark.parametrize("publications", [("p",), ("other",)], ids=["the same", "others"])
def test_a_landmark_is_waited_for_if_what_is_read_now_may_have_it(
    reading: Reading, database: Database, publications: tuple[str, ...]
) -> None:
    """Until it has come nothing is acknowledged. Of other publications it need not come."""
    stream = reading.open()
    landmark = Landmark(Lsn(written(database) + (1 << 30)), 742, 0, checksum_of(publications))
    try:
        stream.expect(str(landmark))
        assert idle_is_acknowledged(stream, database) is (publications == ("other",))
    finally:
        stream.close()


def test_what_was_read_last_need_not_come_again_with_other_publications() -> None:
    memory = Memory(SLOT)
    memory.read_on(checksum_of(["p"]))
    memory.newest = b"B" + bytes(20)
    memory.read_on(checksum_of(["p"]))
    assert memory.landmark is not None

    memory.read_on(checksum_of(["p", "other"]))

    assert memory.landmark is None


def test_what_is_known_of_a_slot_is_the_most_that_was_done_or_acknowledged(
    reading: Reading, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A slot that stands there was moved by its own reader."""
    caplog.set_level(logging.WARNING)
    stream = reading.open()
    assert idle_is_acknowledged(stream, database)
    stream.close()

    reading.open(Lsn(1)).close()

    assert not caplog.messages
