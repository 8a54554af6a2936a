"""The Postgres server, the role and the way to it: each fault made for real."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.operations.doctor.support import PASSWORD, Clinic, ids, only
from tests.support import Database
from walex_celery.database.finding import Step
from walex_celery.operations.doctor import examine, role, server
from walex_celery.operations.doctor.services import SERVICES, service_of, set_parameter
from walex_celery.postgres.connection import connect_replication
from walex_celery.testing.servers import Postgres


@pytest.mark.parametrize(
    ("parameter", "value", "check", "words"),
    [
        ("max_slot_wal_keep_size", "-1", "kept_wal", "until the disk is full"),
        ("max_slot_wal_keep_size", "64MB", "kept_wal", "is 64 MB"),
        ("idle_replication_slot_timeout", "1h", "idle_slot_timeout", "is 3600 s"),
        ("wal_sender_timeout", "0", "sender_timeout", "stays in use"),
        ("wal_sender_timeout", "2s", "sender_timeout", "is 2000 ms"),
    ],
)
def test_a_parameter_that_hurts(clinic: Clinic, parameter: str, value: str, check: str, words: str) -> None:
    clinic.leave()  # its reader answers no keepalives
    clinic.set(parameter, value)
    findings = clinic.examine(modules=(server,))
    assert ids(findings) == {(check, "warning")}
    assert words in findings[0].sentence
    clinic.read()
    assert clinic.fix() == []


def test_a_temporary_slot_asks_less_of_the_server(clinic: Clinic) -> None:
    clinic.set("max_slot_wal_keep_size", "-1")
    assert clinic.examine(clinic.application(durable_slot=False), (server,)) == []


def test_wal_level(clinic: Clinic) -> None:
    clinic.drop_slot()
    clinic.execute("ALTER SYSTEM SET wal_level = 'replica'")
    clinic.database.server.restart()
    try:
        found = only(clinic.examine(), "wal_level")
        assert found.severity == "error"
        assert "wal_level is 'replica'" in found.sentence
        assert found.fix == (
            Step("sql", "ALTER SYSTEM SET wal_level = logical;"),
            Step("shell", "systemctl restart postgresql"),
        )
        clinic.execute(found.fix[0].line)
    finally:
        clinic.execute("ALTER SYSTEM RESET wal_level")
        clinic.database.server.restart()
    assert "wal_level" not in {check for check, _ in ids(clinic.examine())}


def test_no_slot_is_free(clinic: Clinic) -> None:
    clinic.drop_slot()
    names = [f"taken_{number}" for number in range(6)]
    for name in names:
        clinic.execute("SELECT pg_create_physical_replication_slot(%s)", [name])
    try:
        found = only(clinic.examine(), "free_slots")
        assert found.severity == "error"
        assert "all 6 replication slots are taken" in found.sentence
        assert "ALTER SYSTEM SET max_replication_slots = 11;" in [step.line for step in found.fix]
    finally:
        for name in names:
            clinic.execute("SELECT pg_drop_replication_slot(%s)", [name])
    assert "free_slots" not in {check for check, _ in ids(clinic.examine())}


def test_no_sender_is_free(clinic: Clinic) -> None:
    clinic.leave()
    superuser = clinic.application(url=clinic.database.url).settings.connection_settings()
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(contextlib.closing(connect_replication(superuser)))
        found = only(clinic.examine(modules=(server, role)), "free_senders")
    assert found.severity == "error"
    assert "all 6 WAL senders are taken" in found.sentence


def test_a_clock_that_is_wrong(clinic: Clinic) -> None:
    found = only(clinic.examine(modules=(server,), clock=lambda: time.time() + 90), "clock")
    assert found.severity == "warning"
    assert "90.0 s behind this host's" in found.sentence
    found = only(clinic.examine(modules=(server,), clock=lambda: time.time() - 90), "clock")
    assert "90.0 s ahead of this host's" in found.sentence


def test_a_version_that_is_not_supported(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such server is at hand: the bounds are moved instead."""
    monkeypatch.setattr(server, "OLDEST_MAJOR", 97)
    assert ids(clinic.examine(modules=(server,))) == {("postgres_version", "error")}
    monkeypatch.setattr(server, "OLDEST_MAJOR", 9)
    monkeypatch.setattr(server, "NEWEST_MAJOR", 10)
    assert ids(clinic.examine(modules=(server,))) == {("postgres_version", "info")}


SIGNS = [(service.name, "role", name) for service in SERVICES for name in service.roles] + [
    (service.name, "parameter", name) for service in SERVICES for name in service.parameters
]


@pytest.mark.parametrize(("service", "kind", "name"), SIGNS)
def test_managed_services_are_recognised(clinic: Clinic, service: str, kind: str, name: str) -> None:
    if kind == "role":
        clinic.execute(f"CREATE ROLE {name}")
    else:
        clinic.execute(f"ALTER DATABASE \"{clinic.database.name}\" SET {name} = 'on'")
    try:
        found = only(clinic.examine(modules=(server,)), "managed_service")
        assert found.severity == "info"
        assert service in found.sentence
    finally:
        if kind == "role":
            clinic.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize(
    ("sign", "lines"),
    [
        ("rds_superuser", ["ParameterName=rds.logical_replication,ParameterValue=1", "reboot-db-instance"]),
        ("cloudsqladmin", ["--database-flags=cloudsql.logical_decoding=on", "replaces all flags"]),
        ("azure_pg_admin", ["--name wal_level --value logical", "azure.replication_support", "restart"]),
        ("supabase_admin", ["not through the pooler"]),
        ("neon_superuser", ["Logical Replication, Enable"]),
    ],
)
def test_the_fix_of_wal_level_is_the_services(clinic: Clinic, sign: str, lines: list[str]) -> None:
    clinic.execute(f"CREATE ROLE {sign}")
    try:
        service = service_of(clinic.execute)
    finally:
        clinic.execute(f"DROP ROLE {sign}")
    steps = set_parameter(service, "wal_level", "logical", restart=True)
    assert len(steps) == len(lines)
    for step, line in zip(steps, lines, strict=True):
        assert line in step.line


def test_on_rds_a_role_replicates_by_a_grant(clinic: Clinic) -> None:
    clinic.execute(f"ALTER ROLE {clinic.database.name} NOREPLICATION")
    clinic.execute("CREATE ROLE rds_replication")
    clinic.execute("CREATE ROLE rds_superuser")
    try:
        found = only(clinic.examine(modules=(role,)), "role_may_replicate")
        assert found.fix == (Step("sql", f'GRANT "rds_replication" TO "{clinic.database.name}";'),)
        clinic.execute(found.fix[0].line)
        # Our server has no such thing as replicating by a grant, so that more is wrong still.
        assert "role_may_replicate" not in {check for check, _ in ids(clinic.examine(modules=(role,)))}
    finally:
        clinic.execute("DROP ROLE rds_replication")
        clinic.execute("DROP ROLE rds_superuser")


@pytest.mark.parametrize(
    ("fault", "check", "severity", "words"),
    [
        ("NOREPLICATION", "role_may_replicate", "error", "lacks the REPLICATION attribute"),
        ("VALID UNTIL 'tomorrow'", "role_expires", "warning", "expires within"),
    ],
)
def test_a_role(clinic: Clinic, fault: str, check: str, severity: str, words: str) -> None:
    clinic.execute(f"ALTER ROLE {clinic.database.name} {fault}")
    findings = clinic.examine(modules=(role,))
    assert ids(findings) == {(check, severity)}
    assert words in findings[0].sentence
    assert clinic.fix() == []


@pytest.mark.parametrize(
    ("fault", "words", "mended"),
    [
        ("ALTER ROLE {0} NOLOGIN", "not permitted to log in", True),
        ("REVOKE CONNECT ON DATABASE {0} FROM PUBLIC", "permission denied for database", True),
        ("ALTER ROLE {0} PASSWORD 'another'", "password authentication failed", False),
    ],
)
def test_a_connection_that_is_refused(clinic: Clinic, fault: str, words: str, mended: bool) -> None:
    clinic.execute(fault.format(clinic.database.name))
    found = only(examine(clinic.walex, "celery -A shop"), "postgres")
    assert found.severity == "error"
    assert words in found.sentence
    assert PASSWORD not in found.sentence
    assert found.fix
    if mended:
        clinic.execute(found.fix[0].line)
        assert "postgres" not in {
            check for check, severity in ids(examine(clinic.walex, "")) if severity != "ok"
        }


def test_pg_hba_says_no(clinic: Clinic) -> None:
    rules = clinic.database.server.data_dir / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(
        before.replace(
            "all             all             127.0.0.1", "all             postgres        127.0.0.1"
        )
    )
    try:
        clinic.execute("SELECT pg_reload_conf()")
        found = only(examine(clinic.walex, "celery -A shop"), "postgres")
        assert "no pg_hba.conf entry" in found.sentence
        assert "allow the role in pg_hba.conf" in found.fix[0].line
    finally:
        rules.write_text(before)
        clinic.execute("SELECT pg_reload_conf()")


def test_postgres_is_down_and_the_rest_goes_on() -> None:
    with Postgres() as stopped:
        database = Database(stopped, "postgres")
        walex = Clinic(database).walex
        stopped.stop()
        findings = examine(walex, "celery -A shop")
    assert only(findings, "postgres").severity == "error"
    assert only(findings, "postgres").fix[0].line.startswith("Start Postgres, or correct hostname=")
    assert only(findings, "broker").severity == "ok"
    assert not [finding for finding in findings if finding.check in ("wal_level", "slot_exists")]


class Pooler:
    """What a pooler is to a client: ordinary sessions are passed on, replication is refused, as pgbouncer does."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._session, args=(client,), daemon=True).start()

    def _session(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            startup = client.recv(65536)
            while startup[4:8] in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):  # SSLRequest, GSSENCRequest
                client.sendall(b"N")
                startup = client.recv(65536)
            if b"replication\0" in startup:
                text = b"SFATAL\0C08P01\0Munsupported startup parameter: replication\0\0"
                client.sendall(b"E" + (len(text) + 4).to_bytes(4, "big") + text)
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                server.sendall(startup)
                threading.Thread(target=self._pass, args=(server, client), daemon=True).start()
                self._pass(client, server)

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def pooler(clinic: Clinic) -> Iterator[Pooler]:
    pooler = Pooler(clinic.database.server.port)
    yield pooler
    pooler.close()


def test_a_pooler_between(clinic: Clinic, pooler: Pooler) -> None:
    url = f"postgresql://{clinic.database.name}:{PASSWORD}@127.0.0.1:{pooler.port}/{clinic.database.name}"
    findings = clinic.examine(clinic.application(url=url), (role,))
    assert ids(findings) == {("replication_connection", "error")}
    assert "unsupported startup parameter: replication" in findings[0].sentence
    assert "pooler" in findings[0].fix[0].line


def test_the_producer_would_be_a_synchronous_standby(clinic: Clinic) -> None:
    clinic.set("synchronous_standby_names", "*")
    try:
        found = only(clinic.examine(), "synchronous_standby")
    finally:
        clinic.set("synchronous_standby_names", "")
    assert found.severity == "warning"
    assert "synchronous_standby_names is '*', which names the producer" in found.sentence
    assert "synchronous_standby" not in {check for check, _ in ids(clinic.examine())}
