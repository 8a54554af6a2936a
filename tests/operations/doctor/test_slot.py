"""The slot: each fault made for real."""

from __future__ import annotations

import psycopg2
import pytest
from psycopg2.extras import PhysicalReplicationConnection

from tests.operations.doctor.support import Clinic, ids, only
from tests.support import wait_until
from tests.support.slots import written
from walex_celery.database.finding import Step
from walex_celery.operations.doctor import slot


def test_a_temporary_slot(clinic: Clinic) -> None:
    clinic.drop_slot()
    findings = clinic.examine(clinic.application(durable_slot=False), (slot,))
    assert ids(findings) == {("slot_kind", "info")}
    assert findings[0].fix == (Step("python", "durable_slot=True"),)


def test_a_temporary_slot_in_use(clinic: Clinic) -> None:
    clinic.drop_slot()
    walex = clinic.application(durable_slot=False)
    reader = psycopg2.connect(clinic.database.dsn)
    try:
        with reader.cursor() as cursor:
            cursor.execute(
                "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', true)", [clinic.database.name]
            )
        reader.commit()
        assert ids(clinic.examine(walex, (slot,))) == {("slot_kind", "info")}
    finally:
        reader.close()


def test_a_durable_slot_that_is_missing(clinic: Clinic) -> None:
    clinic.drop_slot()
    findings = clinic.examine()
    assert ids(findings) == {("slot_exists", "warning")}
    assert {check for check, _ in ids(clinic.fix())} == {"slot_read"}, "it is there, and waits for a producer"


def test_a_slot_without_a_reader(clinic: Clinic) -> None:
    clinic.leave()
    findings = clinic.examine()
    assert ids(findings) == {("slot_read", "warning")}
    assert findings[0].fix == (Step("shell", "celery -A shop walex producer"),)
    clinic.read()
    assert clinic.examine() == []


def test_a_slot_of_another_plugin(clinic: Clinic) -> None:
    clinic.drop_slot()
    clinic.execute("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", [clinic.database.name])
    found = only(clinic.examine(modules=(slot,)), "slot_usable")
    assert found.severity == "error"
    assert "is of plugin 'test_decoding'" in found.sentence
    assert "give this instance another slot_name=" in found.fix[0].line


def test_a_durable_slot_where_a_temporary_one_is_meant(clinic: Clinic) -> None:
    found = only(clinic.examine(clinic.application(durable_slot=False), (slot,)), "slot_usable")
    assert "set durable_slot=True" in found.fix[0].line


def test_it_is_far_behind(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte would take a test too long."""
    monkeypatch.setattr(slot, "MUCH_LAG_BYTES", 20 << 20)
    assert clinic.examine(modules=(slot,)) == []
    clinic.switch_wal(3)
    findings = clinic.examine(modules=(slot,))
    assert ids(findings) == {("slot_lag", "warning")}
    assert "See in the producer's log" in findings[0].fix[0].line


def test_it_is_about_to_be_lost_then_lost(clinic: Clinic) -> None:
    clinic.leave()
    clinic.set("max_slot_wal_keep_size", "64MB")
    assert "slot_lag" not in {check for check, _ in ids(clinic.examine(modules=(slot,)))}
    clinic.switch_wal(4)
    found = only(clinic.examine(modules=(slot,)), "slot_lag")
    assert found.severity == "warning"
    assert "it is lost after" in found.sentence
    clinic.switch_wal(3)
    found = only(clinic.examine(modules=(slot,)), "slot_lag")
    assert found.severity == "error"
    assert "lost at the next checkpoint" in found.sentence
    assert "ALTER SYSTEM SET max_slot_wal_keep_size = '128MB';" in [step.line for step in found.fix]
    clinic.execute("CHECKPOINT")
    wait_until(
        lambda: ("lost",) in clinic.execute("SELECT wal_status FROM pg_replication_slots"), message="lost"
    )
    findings = clinic.examine(modules=(slot,))
    assert ids(findings) == {("slot_usable", "error")}
    clinic.execute(findings[0].fix[0].line)
    assert ids(clinic.examine(modules=(slot,))) == {("slot_exists", "warning")}


def test_a_standby_beside_a_slot_that_does_not_fail_over(clinic: Clinic) -> None:
    clinic.execute("SELECT pg_create_physical_replication_slot('standby')")
    standby = psycopg2.connect(clinic.database.dsn, connection_factory=PhysicalReplicationConnection)
    try:
        standby.cursor().start_replication(slot_name="standby", start_lsn=int(written(clinic.database)))
        wait_until(
            lambda: clinic.execute(
                "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'standby' AND active"
            )
        )
        found = only(clinic.examine(modules=(slot,)), "slot_failover")
        assert found.severity == "warning"
        assert "it is lost when the standby is promoted" in found.sentence
        clinic.drop_slot()
        clinic.execute(
            "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', failover => true)",
            [clinic.database.name],
        )
        assert "slot_failover" not in {check for check, _ in ids(clinic.examine(modules=(slot,)))}
    finally:
        standby.close()
        wait_until(
            lambda: clinic.execute(
                "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'standby' AND NOT active"
            )
        )
        clinic.execute("SELECT pg_drop_replication_slot('standby')")


def test_a_two_phase_slot(clinic: Clinic) -> None:
    """From Postgres 15 on; up to 14 such a slot streams like any other."""
    clinic.drop_slot()
    clinic.execute(
        "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', false, true)", [clinic.database.name]
    )
    found = only(clinic.examine(modules=(slot,)), "slot_usable")
    assert found.severity == "error"
    assert "was made with two_phase = true" in found.sentence
    assert ids(clinic.fix()) == {("slot_read", "warning")}
