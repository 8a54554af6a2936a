"""Whatever parameters a database sets for its sessions, ours work as with Postgres' defaults (promises 7 and 8)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from tests.support import Database, wait_until
from tests.support.producers import make_app, running
from walex_celery import Event, WalEx
from walex_celery.postgres.connection import connect, connect_replication
from walex_celery.postgres.opening import Read, open_stream
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.pgoutput import completed_lsn
from walex_celery.settings.model import load_settings
from walex_celery.testing.servers import Postgres, npm_postgres

#: Values for parameters that are text.
TEXTS = {
    "DateStyle": "German",
    "TimeZone": "Asia/Tokyo",
    "client_encoding": "LATIN1",
    "default_text_search_config": "pg_catalog.simple",
    "search_path": "nowhere",
    "timezone_abbreviations": "India",
}

#: Categories of parameters that change neither a value nor what a session may do: only costs and plans.
COSTS = ("Query Tuning", "Resource Usage", "Vacuuming", "Connections and Authentication", "Statistics")

#: The others that need no pin, and why.
HARMLESS = {
    # What is typed in, never what is printed.
    "array_nulls", "backslash_quote", "default_text_search_config", "timezone_abbreviations", "transform_null_equals",
    # What to_char prints, which we never call.
    "lc_numeric", "lc_time",
    # Warnings, logs and checks while functions are created.
    "check_function_bodies", "createrole_self_grant", "debug_pretty_print", "debug_print_parse", "debug_print_plan",
    "debug_print_rewritten", "escape_string_warning", "icu_validation_level", "log_parameter_max_length_on_error",
    "trace_notify", "trace_sort",
    # How it is done, not what comes out of it.
    "commit_siblings", "debug_logical_replication_streaming", "debug_parallel_query", "default_toast_compression",
    "force_parallel_mode", "gin_fuzzy_search_limit", "gin_pending_list_limit", "jit_expressions",
    "jit_tuple_deforming", "synchronize_seqscans", "wal_skip_threshold",
    # Read before it is used: the feedback's interval follows it.
    "wal_sender_timeout",
    # Set in the startup message, which overrides the database.
    "client_encoding",
}  # fmt: skip


@pytest.fixture(scope="module", params=[14, 18])
def server(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    with Postgres(
        npm_postgres(request.param), settings={"fsync": "off", "max_prepared_transactions": "5"}
    ) as server:
        yield server


@pytest.fixture
def database(server: Postgres) -> Iterator[Database]:
    database = Database(server, server.create_database())
    yield database
    server.drop_database(database.name)


def settings_of(database: Database, **keywords: object) -> SlotSettings:
    given = {
        "name": "shop",
        "url": database.url,
        "publication": "events",
        "slot_name": database.name,
        **keywords,
    }
    return load_settings(given, {}).slot_settings()


def set_on(database: Database, parameters: dict[str, str]) -> None:
    """Have later sessions of *database* begin with *parameters*; not over a session that begins with them."""
    with database.server.connect() as admin, admin.cursor() as cursor:
        for name, value in parameters.items():
            cursor.execute(f'ALTER DATABASE "{database.name}" SET {name} = %s', (value,))


def all_different(database: Database) -> dict[str, str]:
    """Each parameter that any user may set, with a value that is not the default."""
    different: dict[str, str] = {}
    for name, setting, kind, lowest, highest, values in database.execute(
        "SELECT name, setting, vartype, min_val, max_val, enumvals FROM pg_settings WHERE context = 'user'"
        " AND name NOT LIKE 'transaction\\_%read%' AND name NOT IN ('transaction_isolation', 'transaction_deferrable')"
        # A server that gives a peer a millisecond has no peers.
        " AND name NOT LIKE 'tcp\\_%'"
    ):
        if name in TEXTS:
            different[name] = TEXTS[name]
        elif kind == "bool":
            different[name] = "off" if setting == "on" else "on"
        elif kind == "enum" and len(values) > 1:
            different[name] = next(value for value in reversed(values) if value != setting)
        elif kind in ("integer", "real"):
            if name.endswith("_timeout") and setting == "0":
                different[name] = "500"
            else:
                different[name] = (
                    lowest if lowest != setting else str(min(float(setting) + 1, float(highest)))
                )
    return different


@pytest.mark.parametrize("connecting", [connect, connect_replication])
def test_what_can_matter_is_pinned(connecting: Callable[..., Connection], database: Database) -> None:
    """Of all that any user may set; a new major's parameters show up here."""
    parameters = all_different(database)
    assert len(parameters) > 100
    set_on(database, parameters)

    connection = connecting(settings_of(database).connection)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT name, category FROM pg_settings WHERE source = 'database' AND context = 'user'"
            )
            left = {
                name
                for name, category in cursor.fetchall()
                if not category.startswith(COSTS) and not name.startswith("vacuum_")
            }
    finally:
        connection.close()

    assert left - HARMLESS == set()


TYPES: dict[str, str] = {
    "at": "timestamptz '2026-01-02 03:04:05.678+02'",
    "day": "date '2026-12-31'",
    "span": "interval '1 year 2 days 03:04:05'",
    "bytes": r"decode('00ff5c', 'hex')",
    "ratio": "float8 '0.1' + float8 '0.2'",
    "price": "money '12.34'",
    "doc": "xml '<a>x</a><b/>'",
    "class": "'pg_class'::regclass",
    "words": "ARRAY['a', NULL, 'b\"c']",
    "during": "tstzrange('2026-01-01 00:00+00', '2026-02-01 00:00+00')",
}  # fmt: skip


def records_of(
    database: Database, broker_url: str, prepare: Callable[[Database], None]
) -> list[dict[str, Any]]:
    """What a batch handler gets of one row of all types, after another one whose handler failed: a dead letter."""
    columns = ", ".join(f"pg_typeof({value})::text" for value in TYPES.values())
    (kinds,) = database.execute(f"SELECT {columns}")
    definition = ", ".join(f"{name} {kind}" for name, kind in zip(TYPES, kinds, strict=True))
    database.execute(
        f"CREATE TABLE public.things (id int PRIMARY KEY, {definition}); CREATE PUBLICATION events FOR ALL TABLES"
    )
    writer = database.connect()
    prepare(database)
    walex = WalEx(
        make_app(broker_url), name="shop", url=database.url, publication="events", subscriptions=["things"],
        durable_slot=True, slot_name=database.name, on_error="dead_letter", reconnect_timeout=10,
    )  # fmt: skip
    got: list[Event] = []

    @walex.on_insert("things")
    def things(events: list[Event]) -> None:
        if events[0].new_record["id"] == 1:
            raise ValueError("not this one")
        got.extend(events)

    with running(walex) as producer, writer.cursor() as cursor:
        for number in (1, 2):
            cursor.execute(f"INSERT INTO public.things SELECT {number}, {', '.join(TYPES.values())}")
        wait_until(lambda: got, message="the second row arrives")
        assert [count for _, count in producer.statistics.dead_letters()] == [1]
    writer.close()
    return [dict(event.new_record) for event in got]


def test_with_everything_set_otherwise_the_same_values_come(
    database: Database, server: Postgres, redis_url: str
) -> None:
    usual = Database(server, server.create_database())
    try:
        expected = records_of(usual, redis_url, lambda _: None)
    finally:
        server.drop_database(usual.name)

    assert records_of(database, redis_url, lambda on: set_on(on, all_different(on))) == expected


def test_a_large_transaction_outlasts_transaction_timeout(database: Database) -> None:
    """Decoding it is one transaction of the walsender, and takes as long as the handlers of what is sent (17+)."""
    database.execute("CREATE TABLE t (pad text); CREATE PUBLICATION events FOR TABLE t")
    if database.execute("SELECT name FROM pg_settings WHERE name = 'transaction_timeout'"):
        set_on(database, {"transaction_timeout": "1s"})
    opened = open_stream(settings_of(database), Read())
    stream = opened.stream
    try:
        stream.create_slot()
        stream.start()
        writer = database.connect()
        with writer.cursor() as cursor:
            cursor.execute("SET transaction_timeout = 0" if opened.server.version >= 170000 else "SELECT")
            cursor.execute("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 40000)")
        writer.close()
        messages = wait_until(lambda: stream.read(pending=False, timeout=1.0), message="it begins")
        with database.server.connect() as admin, admin.cursor() as cursor:
            # As a handler that takes longer than the timeout; nothing shows how old the walsender's transaction is.
            cursor.execute("SELECT pg_sleep(1.5)")
        while completed_lsn(messages[-1].payload) is None:
            messages += stream.read(pending=False, timeout=1.0)
    finally:
        stream.close()
    assert len(messages) == 40_003


def test_a_slot_made_beside_an_open_transaction_waits_and_says_for_whom(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute("CREATE TABLE t (id int); CREATE PUBLICATION events FOR TABLE t")
    set_on(database, {"lock_timeout": "100ms"})
    other = database.connect()
    pid = other.info.backend_pid
    made: list[object] = []
    with caplog.at_level(logging.WARNING, "walex_celery"), other.cursor() as cursor:
        cursor.execute("SET application_name = 'a long report'")
        cursor.execute("BEGIN; INSERT INTO public.t VALUES (1)")
        opened = open_stream(settings_of(database), Read())
        making = threading.Thread(target=lambda: made.append(opened.stream.create_slot()))
        making.start()
        try:
            wait_until(lambda: "a long report" in caplog.text, message="it says for whom it waits")
            assert making.is_alive()
        finally:
            cursor.execute("COMMIT")
            making.join(20)
            opened.stream.close()
            other.close()
    (begins_at,) = made
    assert begins_at is not None
    (text,) = {record.getMessage() for record in caplog.records}
    assert f"replication slot '{database.name}' waits for transactions that are still open" in text
    assert f"pid {pid}" in text
    assert f"fix: end it, or SELECT pg_terminate_backend({pid})" in text


def test_a_slot_made_beside_a_prepared_transaction_says_so(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute("CREATE TABLE t (id int); CREATE PUBLICATION events FOR TABLE t")
    made: list[object] = []
    other = database.connect()
    with caplog.at_level(logging.WARNING, "walex_celery"), other.cursor() as cursor:
        cursor.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'forgotten one'")
        opened = open_stream(settings_of(database), Read())
        making = threading.Thread(target=lambda: made.append(opened.stream.create_slot()))
        making.start()
        try:
            wait_until(lambda: "'forgotten one'" in caplog.text, message="it says for whom it waits")
        finally:
            cursor.execute("ROLLBACK PREPARED 'forgotten one'")
            making.join(20)
            opened.stream.close()
            other.close()
    (begins_at,) = made
    assert begins_at is not None
    assert "fix: COMMIT PREPARED or ROLLBACK PREPARED 'forgotten one'" in caplog.text
