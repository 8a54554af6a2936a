"""The patient: an application, its database, and somebody who reads its slot."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from psycopg2.extras import LogicalReplicationConnection

from tests.operations.support import application, ignore
from tests.support import Database, wait_until
from walex_celery import Filters, WalEx
from walex_celery.database import publication, replica_identity
from walex_celery.database.registry import checks_of, make
from walex_celery.operations.doctor import Finding, role, server, slot
from walex_celery.operations.doctor.context import Context
from walex_celery.postgres.connection import connect_replication

PASSWORD = "sesame-open"
POSTGRES = (server, role, publication, replica_identity, slot)


class Clinic:
    """A database with an application that is set up right, until a test breaks something."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._reader: LogicalReplicationConnection | None = None
        self.walex = self.application()
        self.walex.on_event("users", Filters(unwatched_fields=["updated_at"]))(ignore)

    def application(self, **settings: Any) -> WalEx:
        """An application like the healthy one but for *settings*; it has no handlers."""
        database = self.database
        url = database.server.url(database.name, user=database.name, password=PASSWORD)
        return application(database, **{"url": url, "durable_slot": True, **settings})

    def read(self) -> None:
        """Read the slot, as a producer does."""
        self._reader = connect_replication(self.application().settings.connection_settings())
        self._reader.cursor().start_replication(
            slot_name=self.database.name,
            decode=False,
            options={"proto_version": "1", "publication_names": "events"},
        )
        wait_until(lambda: self._slot_is(active=True), message="the slot is read")

    def leave(self) -> None:
        """Read it no more."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
            wait_until(lambda: self._slot_is(active=False), message="the slot is left")

    def _slot_is(self, *, active: bool) -> bool:
        return (active,) in self.execute(
            "SELECT active FROM pg_replication_slots WHERE slot_name = %s", [self.database.name]
        )

    def drop_slot(self) -> None:
        """Leave the slot, and drop it."""
        self.leave()
        self.execute("SELECT pg_drop_replication_slot(%s)", [self.database.name])

    def execute(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run SQL as a superuser."""
        return self.database.execute(statement, parameters)

    def execute_all(self, statements: str) -> None:
        """Run statements one by one, each committed before the next."""
        for statement in filter(str.strip, statements.split(";")):
            self.execute(statement)

    def set(self, name: str, value: str) -> None:
        """Set a parameter that takes no restart."""
        self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")
        # Each session reads it again when it gets the signal.
        wait_until(lambda: (value,) in self.execute("SELECT current_setting(%s)", [name]), message=name)

    def switch_wal(self, segments: int) -> None:
        """Write so many segments of WAL, 16 MB each."""
        for _ in range(segments):
            self.execute("SELECT pg_logical_emit_message(true, '', '')")
            self.execute("SELECT pg_switch_wal()")

    def examine(
        self,
        walex: WalEx | None = None,
        modules: tuple[ModuleType, ...] = POSTGRES,
        clock: Callable[[], float] = time.time,
    ) -> list[Finding]:
        """What the checks of *modules* find that is not fine."""
        context = Context(walex or self.walex, "celery -A shop", clock)
        context.connect()
        try:
            return [
                finding
                for module in modules
                for finding in make(checks_of(module.__name__), context)
                if finding.severity != "ok"
            ]
        finally:
            context.close()

    def fix(self, walex: WalEx | None = None) -> list[Finding]:
        """Run the SQL that the findings print, as long as there is any; gives what is left."""
        for _ in range(4):
            findings = self.examine(walex)
            lines = [step.line for finding in findings for step in finding.fix if step.how == "sql"]
            if not lines:
                break
            for line in dict.fromkeys(lines):
                self.execute(line)
        return findings

    def close(self) -> None:
        """Let go of the slot."""
        self.leave()


def ids(findings: list[Finding]) -> set[tuple[str, str]]:
    """Check and severity of *findings*."""
    return {(finding.check, finding.severity) for finding in findings}


def only(findings: list[Finding], check: str) -> Finding:
    """The one finding of *check*."""
    (found,) = [finding for finding in findings if finding.check == check]
    return found
