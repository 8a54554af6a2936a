"""Databases in other encodings, and with other session defaults (promise 7)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from psycopg2 import sql

from tests.events.values.samples import SAMPLES
from tests.fidelity.reader import Reader
from tests.fidelity.shadow import Shadow
from walex_celery import Event
from walex_celery.events.values import Interval
from walex_celery.testing.servers import Postgres

#: Every byte but NUL and those that SQL quotes; no UTF-8.
ANY_BYTES = bytes(range(1, 256))


@pytest.fixture
def encoded(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[Shadow]:
    with Shadow(postgres, encoding=request.param) as made:
        yield made


def quoted(value: bytes) -> bytes:
    return b"'" + value.replace(b"'", b"''") + b"'"


@pytest.mark.parametrize("encoded", ["LATIN1"], indirect=True)
@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_latin1(encoded: Shadow, identity: str) -> None:
    encoded.define(
        "CREATE TYPE \"Größe\" AS ENUM ('klein', 'groß')",
        'CREATE TABLE "Öl" ("schlüssel é" text PRIMARY KEY, "ü" text, j json, m "Größe", n int)',
        f'ALTER TABLE "Öl" REPLICA IDENTITY {identity}',
    )
    encoded.start()
    every = "".join(map(chr, [*range(1, 128), *range(160, 256)])).replace("'", "''")

    encoded.execute(
        f"""INSERT INTO "Öl" VALUES ('{every}', 'ÿ', '{{"é": "ñ"}}', 'groß', 1)""",
        'UPDATE "Öl" SET n = 2',
        """UPDATE "Öl" SET "schlüssel é" = 'Æ'""",
        "SELECT pg_logical_emit_message(true, 'prefix', 'any')",
    )

    first, _, _, message = encoded.follow()
    encoded.same()
    assert first.new_record == {
        "schlüssel é": every.replace("''", "'"), "ü": "ÿ", "j": {"é": "ñ"}, "m": "groß", "n": 1,
    }  # fmt: skip
    assert first.source.columns["m"] == 'public."Größe"'
    assert message.content == b"any"


@pytest.mark.parametrize("encoded", ["SQL_ASCII"], indirect=True)
@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_bytes_that_are_no_text(encoded: Shadow, identity: str) -> None:
    """Kept as lone surrogates, as Python keeps the names of files (PEP 383)."""
    text = ANY_BYTES.decode("utf-8", "surrogateescape")
    encoded.define(
        b"CREATE TYPE \"mood \xff\" AS ENUM ('\xfe', 'ok')",
        b'CREATE TABLE "t\xe9" ("id \xff" int PRIMARY KEY, "\xc3\xa9" text, "j\xff" json, jb jsonb, ts text[],'
        b' m "mood \xff", n int)',
        b'ALTER TABLE "t\xe9" REPLICA IDENTITY ' + identity.encode(),
    )
    encoded.start()
    array = b'{"' + ANY_BYTES.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'",\xff}'

    encoded.execute(
        b'INSERT INTO "t\xe9" VALUES (1, %b, \'{"a\xff": "\xfe", "n": 1.10}\', \'["\xfd \xc3\xa9"]\', %b, \'\xfe\', 1)'
        % (quoted(ANY_BYTES), quoted(array)),
        b'UPDATE "t\xe9" SET n = 2',
        b'UPDATE "t\xe9" SET "\xc3\xa9" = \'\xff\', "id \xff" = 2',
        b"INSERT INTO \"t\xe9\" VALUES (3, 'plain')",
        b'DELETE FROM "t\xe9" WHERE "id \xff" = 2',
    )

    first, _, third, *_ = encoded.follow()
    encoded.same()
    assert first.name == "t\udce9"
    assert first.new_record == {
        "id \udcff": 1,
        "é": text,
        "j\udcff": {"a\udcff": "\udcfe", "n": 1.1},
        "jb": ["\udcfd é"],
        "ts": [text, "\udcff"],
        "m": "\udcfe",
        "n": 1,
    }
    assert first.new_record["é"].encode("utf-8", "surrogateescape") == ANY_BYTES
    assert first.source.columns["m"] == 'public."mood \udcff"'
    assert third.old_key == {"id \udcff": 1}


@pytest.mark.parametrize("encoded", ["SQL_ASCII"], indirect=True)
@pytest.mark.filterwarnings("ignore:Unclosed")
def test_bytes_that_are_no_text_reach_a_task(encoded: Shadow, redis_url: str) -> None:
    """Through a real broker and worker, as the argument of a task."""
    app = Celery("bytes", broker=redis_url)
    app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)
    received: list[Event] = []
    arrived = threading.Event()

    @app.task(name="bytes.take")
    def take(event: Event) -> None:
        received.append(event)
        arrived.set()

    encoded.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    encoded.start()
    encoded.execute(b"INSERT INTO t VALUES (1, %b)" % quoted(ANY_BYTES))
    (event,) = encoded.read()

    with start_worker(app, perform_ping_check=False, pool="solo"):
        take.delay(event)
        assert arrived.wait(30)

    record = received[0].new_record
    assert record is not None
    assert record["a"].encode("utf-8", "surrogateescape") == ANY_BYTES
    assert received[0] == event


SETTINGS = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kolkata",
    "bytea_output": "escape",
    "extra_float_digits": "0",
    "xmloption": "document",
    "quote_all_identifiers": "on",
    "search_path": "other, public, pg_catalog",
}


@pytest.mark.parametrize("where", ["DATABASE", "ROLE"])
def test_other_defaults_of_the_session(shadow: Shadow, where: str) -> None:
    """Those of the database and of the role do not reach the values that are sent."""
    database = sql.Identifier(shadow.source.name)
    target = sql.SQL("DATABASE {}").format(database)
    if where == "ROLE":
        target = sql.SQL("ROLE postgres IN DATABASE {}").format(database)
    names = [name for name in SAMPLES if name not in ('"char"', "regproc", "regclass")]
    for name in names:
        shadow.define(f'CREATE TABLE "of {name}" (id int PRIMARY KEY, value {name}, many {name}[])')
    shadow.define(
        "CREATE SCHEMA other",
        "CREATE TYPE mood AS ENUM ('sad')",
        "CREATE TABLE t (at timestamptz PRIMARY KEY, i interval, b bytea, f float8, m money, r regclass, e mood)",
    )
    session = shadow.source.connect()
    with session.cursor() as cursor:
        for name, value in SETTINGS.items():
            literal = sql.SQL(value) if "," in value else sql.Literal(value)
            cursor.execute(sql.SQL("ALTER {} SET {} = {}").format(target, sql.Identifier(name), literal))
    session.close()
    try:
        shadow.start()
        shadow.execute(
            "INSERT INTO t VALUES ('2024-02-01 12:00+00', '-1 mon 2 days', '\\x00ff', 0.1::float8 + 0.2, 1234.5,"
            " 't', 'sad')"
        )
        for name in names:
            for number, (literal_text, _) in enumerate(SAMPLES[name]):
                value = f"({literal_text})::{name}"
                shadow.execute(f'INSERT INTO "of {name}" VALUES ({number}, {value}, ARRAY[{value}])')

        first, *_ = shadow.follow()

        shadow.same()
        assert first.new_record == {
            "at": datetime(2024, 2, 1, 12, tzinfo=UTC),
            "i": Interval(-1, 2),
            "b": b"\0\xff",
            "f": 0.30000000000000004,
            "m": Decimal("1234.50"),
            "r": "public.t",
            "e": "sad",
        }
        assert first.source.columns["e"] == "public.mood"
    finally:
        session = shadow.source.connect()
        with session.cursor() as cursor:
            cursor.execute(sql.SQL("ALTER {} RESET ALL").format(target))
        session.close()


def test_a_role_that_may_only_replicate(shadow: Shadow) -> None:
    """A role that may read no table gets types and keys."""
    shadow.execute(
        "CREATE TYPE mood AS ENUM ('sad')", "CREATE TABLE t (id int PRIMARY KEY, m mood)",
        "ALTER TABLE t REPLICA IDENTITY FULL", "CREATE PUBLICATION p FOR ALL TABLES",
        "CREATE ROLE walex_reader LOGIN REPLICATION PASSWORD 'x'",
    )  # fmt: skip
    try:
        with Reader(shadow.source, ["p"], role="walex_reader", password="x") as reader:
            shadow.execute("INSERT INTO t VALUES (1, 'sad')")
            (event,) = reader.read()
    finally:
        shadow.execute("DROP ROLE walex_reader")
    assert event.new_record == {"id": 1, "m": "sad"}
    assert event.key == {"id": 1}
