"""What tests share beyond fixtures: waiting for a condition, and a database that is theirs alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeVar

from psycopg2.extensions import connection

from walex_celery.testing.servers import Postgres

T = TypeVar("T")

#: ``wal_sender_timeout`` of servers that tests have a connection outlast: several times what a busy machine may
#: keep a process from running.
SENDER_TIMEOUT_SECONDS = 8


def wait_until(condition: Callable[[], T | None], timeout: float = 10.0, message: str = "") -> T:
    """Return the first truthy value of ``condition``; fail with the last one after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    never = Event()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            what = message or getattr(condition, "__name__", "condition")
            raise AssertionError(f"not within {timeout:g} s: {what}; last value: {value!r}")
        never.wait(0.01)


@dataclass(frozen=True, slots=True)
class Database:
    """A database of one test on a running server."""

    server: Postgres
    name: str

    @property
    def dsn(self) -> str:
        """libpq connection string."""
        return self.server.dsn(self.name)

    @property
    def url(self) -> str:
        """``postgresql://`` URL."""
        return self.server.url(self.name)

    def connect(self) -> connection:
        """Open a psycopg2 connection in autocommit mode."""
        return self.server.connect(self.name)

    def execute(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run SQL in autocommit mode on a connection of its own; return the last statement's rows."""
        opened = self.connect()
        try:
            with opened.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else []
        finally:
            opened.close()
