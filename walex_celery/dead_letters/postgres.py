"""Dead letters in the source database, in the table of ``schema.py``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeVar

import psycopg2
from psycopg2 import errorcodes
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from walex_celery._invocation import celery_command
from walex_celery.dead_letters.letter import Letter
from walex_celery.dead_letters.schema import TABLE
from walex_celery.dead_letters.store import Try
from walex_celery.errors import PostgresUnavailable, SetupError, WalExError
from walex_celery.postgres.connection import connect
from walex_celery.postgres.errors import explain_error, words_of
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.parameters import ConnectionSettings

Result = TypeVar("Result")

_SUMMARY: Final = (
    "id, kind, instance, system_identifier, handler, registration, task_id, lsn, xid, first_index, tables,"
    " event_count, error_type, error, traceback, committed_at, failed_at, tried_at, tries"
)
_NOT_SET_UP: Final = (
    errorcodes.INSUFFICIENT_PRIVILEGE,
    errorcodes.UNDEFINED_TABLE,
    errorcodes.INVALID_SCHEMA_NAME,
    errorcodes.UNDEFINED_COLUMN,
)
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")

#: Whether the role may read the table, and whether it can write there now (granted, and the server is writable).
_ACCESS: Final = """
SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
       has_table_privilege(c.oid, 'INSERT')
       AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')
       AND NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'walex' AND c.relname = 'dead_letters'
"""


class Access(NamedTuple):
    """What a role may do with the table."""

    readable: bool
    writable: bool


class PostgresStore:
    """The letters of *instance*, in the database it reads; see :class:`~walex_celery.dead_letters.store.Store`."""

    def __init__(self, settings: ConnectionSettings, instance: str) -> None:
        self._settings = settings
        self._name = instance
        self._connection: Connection | None = None
        self._ascii = False

    @property
    def where(self) -> str:
        """Where it is, as readable text."""
        return f"table {TABLE} of {self._settings.address()}"

    def access(self) -> Access | None:
        """What the role may do with the table; ``None`` if that does not exist.

        Raises:
            WalExError: Postgres can't be asked.
        """
        rows = self._run(lambda cursor: _rows(cursor, _ACCESS))
        if not rows:
            return None
        ((readable, writable),) = rows
        return Access(readable, readable and writable)

    def add(self, letter: Letter) -> None:
        """Store *letter*; if it exists, update its events and error."""
        values = self._values(letter)
        names = ", ".join(values)
        holes = ", ".join(f"%({name})s" for name in values)
        # The events too: if filters changed meanwhile, a redelivered transaction may be cut into other chunks.
        updated = ("tables", "event_count", "events", "error_type", "error", "traceback", "tried_at", "tries")
        sets = ", ".join(f"{name} = excluded.{name}" for name in updated)
        insert = f"INSERT INTO {TABLE} ({names}) VALUES ({holes}) ON CONFLICT (id) DO UPDATE SET {sets}"
        self._run(lambda cursor: cursor.execute(insert, values))

    def summaries(self) -> list[Letter]:
        """All letters without their events."""
        select = f"SELECT {_SUMMARY} FROM {TABLE} WHERE instance = %s ORDER BY lsn, first_index, handler"
        rows = self._run(lambda cursor: _rows(cursor, select, self._instance))
        return [_letter(row) for row in rows]

    def get(self, id: str) -> Letter | None:
        """A letter with its events."""
        rows = self._run(lambda cursor: self._select(cursor, id, ""))
        return _letter(rows[0]) if rows else None

    def attempt(self, id: str, attempt: Try) -> bool:
        """Lock a letter while *attempt* runs."""
        connection = self._connected()
        connection.autocommit = False
        try:
            with connection, connection.cursor() as cursor:
                rows = self._select(cursor, id, "FOR UPDATE SKIP LOCKED")
                if not rows:
                    return False
                left = attempt(_letter(rows[0]))
                if left is None:
                    cursor.execute(f"DELETE FROM {TABLE} WHERE id = %s", (id,))
                else:
                    cursor.execute(
                        f"UPDATE {TABLE} SET error_type = %(error_type)s, error = %(error)s,"
                        " traceback = %(traceback)s, tried_at = %(tried_at)s, tries = %(tries)s WHERE id = %(id)s",
                        self._values(left),
                    )
                return True
        except psycopg2.Error as error:
            raise self._failed(error) from error
        finally:
            if self._connection is not None:
                self._connection.autocommit = True

    def discard(self, ids: Iterable[str]) -> int:
        """Remove letters."""
        delete = f"DELETE FROM {TABLE} WHERE instance = %s AND id = ANY(%s) RETURNING id"
        return len(self._run(lambda cursor: _rows(cursor, delete, self._instance, list(ids))))

    def count(self) -> int:
        """How many there are."""
        select = f"SELECT count(*) FROM {TABLE} WHERE instance = %s"
        return int(self._run(lambda cursor: _rows(cursor, select, self._instance))[0][0])

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _instance(self) -> str:
        return self._text(self._name)

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = connect(self._settings)
            # In a database of another encoding, all but ASCII is escaped.
            self._ascii = connection.info.parameter_status("server_encoding") != "UTF8"
            self._connection = connection
        return self._connection

    def _run(self, step: Callable[[Cursor], Result]) -> Result:
        try:
            with self._connected().cursor() as cursor:
                return step(cursor)
        except psycopg2.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: psycopg2.Error) -> WalExError:
        self.close()
        if isinstance(error, psycopg2.InterfaceError):
            return PostgresUnavailable(
                f"the connection to Postgres at {self._settings.address()} broke: {error}"
            )
        if error.pgcode in _NOT_SET_UP:
            return SetupError(
                f"dead letters: {self.where} can't be used: {words_of(error)}\n"
                f"  fix: run {celery_command()} walex setup, which creates it and grants the producer's role access"
            )
        explained = explain_error(error, self._settings)
        return type(explained)(f"dead letters: {self.where} can't be used: {explained}")

    def _select(self, cursor: Cursor, id: str, lock: str) -> list[tuple[Any, ...]]:
        select = f"SELECT {_SUMMARY}, events FROM {TABLE} WHERE instance = %s AND id = %s {lock}"
        return _rows(cursor, select, self._instance, id)

    def _values(self, letter: Letter) -> dict[str, Any]:
        self._connected()
        return {
            "id": letter.id,
            "kind": letter.kind,
            "instance": self._text(letter.instance),
            "system_identifier": letter.system_identifier,
            "handler": self._text(letter.handler),
            "registration": self._text(letter.registration),
            "task_id": letter.task_id,
            "lsn": str(letter.lsn),
            "xid": letter.xid,
            "first_index": letter.index,
            "tables": [self._text(table) for table in letter.tables],
            "event_count": letter.event_count,
            "events": [self._json(event) for event in letter.events],
            "error_type": self._text(letter.error_type),
            "error": self._text(letter.error),
            "traceback": self._text(letter.traceback),
            "committed_at": letter.committed_at,
            "failed_at": letter.failed_at,
            "tried_at": letter.tried_at,
            "tries": letter.tries,
        }

    def _text(self, text: str) -> str:
        """*text* with what the database can't store escaped: NUL, lone surrogates, characters of other encodings."""
        encoding = "ascii" if self._ascii else "utf-8"
        return text.replace("\0", r"\x00").encode(encoding, "backslashreplace").decode(encoding)

    def _json(self, text: str) -> str:
        """The JSON *text*, escaped to characters that the database can store."""
        return _NON_ASCII.sub(_escape, text) if self._ascii else text


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _rows(cursor: Cursor, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    cursor.execute(statement, parameters)
    return cursor.fetchall()


def _letter(row: tuple[Any, ...]) -> Letter:
    (
        id, kind, instance, system_identifier, handler, registration, task_id, lsn, xid, index, tables,
        event_count, error_type, error, traceback, committed_at, failed_at, tried_at, tries, *events,
    ) = row  # fmt: skip
    return Letter(
        id=id,
        kind=kind,
        instance=instance,
        system_identifier=int(system_identifier),
        handler=handler,
        registration=registration,
        task_id=task_id,
        lsn=Lsn.parse(lsn),
        xid=xid,
        index=index,
        tables=tuple(tables),
        event_count=event_count,
        events=tuple(events[0]) if events else (),
        error_type=error_type,
        error=error,
        traceback=traceback,
        committed_at=committed_at,
        failed_at=failed_at,
        tried_at=tried_at,
        tries=tries,
    )
