"""How far behind: what the meter makes of positions."""

from __future__ import annotations

from tests.support import Database, wait_until
from walex_celery import Lsn
from walex_celery.postgres.catalog import Catalog
from walex_celery.settings.model import load_settings
from walex_celery.telemetry.lag import BACKLOG_BYTES, Backlog, Meter
from walex_celery.telemetry.statistics import Statistics

MIB = 1024 * 1024


def test_what_is_written_and_not_acknowledged_is_the_lag() -> None:
    assert Backlog().observe(0.0, 5000, 3000, None).bytes == 2000


def test_a_position_ahead_of_the_server_s_is_no_lag() -> None:
    # The server was asked before the stream went on.
    assert Backlog().observe(0.0, 3000, 5000, None).bytes == 0


def test_its_age_is_that_of_the_oldest_wal_not_acknowledged() -> None:
    backlog = Backlog()
    backlog.observe(0.0, 1000, 1000, None)
    backlog.observe(10.0, 2000, 1000, None)
    backlog.observe(20.0, 3000, 1000, None)

    assert backlog.observe(30.0, 3000, 1000, None).seconds == 20
    assert backlog.observe(32.0, 3000, 2000, None).seconds == 12
    assert backlog.observe(33.0, 3000, 3000, None).seconds == 0


def test_wal_that_is_acknowledged_a_moment_later_is_no_lag() -> None:
    backlog = Backlog()
    backlog.observe(0.0, 2000, 1000, None)

    assert backlog.observe(2.0, 2000, 1000, None).seconds == 0


def test_the_transaction_in_hand_tells_of_what_was_before_the_start() -> None:
    assert Backlog().observe(0.0, 2000, 1000, 3600.0).seconds == 3600


def test_an_hour_of_lag_takes_bounded_memory_and_keeps_its_age() -> None:
    backlog = Backlog()
    for second in range(0, 7200, 2):
        lag = backlog.observe(float(second), 1000 + second, 1000, None)

    assert lag.seconds == 7196
    assert len(backlog._marks) <= 512


def test_the_end_of_a_backlog_is_foretold_by_how_it_shrinks() -> None:
    backlog = Backlog()
    start = backlog.observe(0.0, 100 * MIB, 0, None)
    later = backlog.observe(5.0, 100 * MIB, 25 * MIB, None)

    assert start.backlog_bytes == 100 * MIB
    assert start.seconds_left is None
    assert later.backlog_bytes == 100 * MIB
    assert later.seconds_left == 15


def test_of_a_backlog_that_grows_no_end_is_foretold() -> None:
    backlog = Backlog()
    backlog.observe(0.0, 100 * MIB, 0, None)

    grown = backlog.observe(5.0, 150 * MIB, 25 * MIB, None)

    assert (grown.seconds_left, grown.backlog_bytes) == (None, 125 * MIB)


def test_a_backlog_is_over_when_little_is_left_and_small_lags_are_none() -> None:
    backlog = Backlog()
    backlog.observe(0.0, BACKLOG_BYTES, 0, None)

    assert backlog.observe(1.0, BACKLOG_BYTES, BACKLOG_BYTES - 1000, None).backlog_bytes == 0
    assert backlog.observe(2.0, BACKLOG_BYTES + MIB, BACKLOG_BYTES, None).backlog_bytes == 0


def test_the_meter_measures_on_a_connection_of_its_own_and_survives_its_loss(database: Database) -> None:
    settings = load_settings(
        {"name": "shop", "url": database.url, "publication": "events"}, {}
    ).slot_settings()
    catalog = Catalog(settings.connection)
    acknowledged = catalog.wal_lsn()
    catalog.close()
    statistics = Statistics()
    meter = Meter(lambda: settings, lambda: Lsn(acknowledged), lambda: None, statistics, 0.05)
    meter.start()
    try:
        database.execute("CREATE TABLE users AS SELECT generate_series(1, 1000)")
        wait_until(lambda: (meter.lag.bytes or 0) > 1000)
        statistics.events += 100
        wait_until(lambda: meter.rates.events > 0)

        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND datname = current_database()"
        )
        before = meter.lag.measured_at
        wait_until(lambda: meter.lag.measured_at is not None and meter.lag.measured_at != before)
    finally:
        meter.close()
    wait_until(lambda: not meter.is_alive())
