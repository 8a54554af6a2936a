"""A copy of a database kept by events alone, as workers get them, and held against its source by SQL."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from psycopg2.extensions import cursor

from tests.fidelity.reader import Reader, over_the_wire
from tests.fidelity.statements import identifier, printed, statement
from tests.support import Database
from walex_celery import Event
from walex_celery.postgres.connection import SESSION
from walex_celery.testing.servers import Postgres

PUBLICATION = "shadow"

_TABLES = """
SELECT textsend(n.nspname::text), textsend(c.relname::text), c.oid
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY 1, 2
"""

_COLUMNS = """
SELECT textsend(attname::text), attgenerated <> '' FROM pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""

_RESET = """
SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots
WHERE active_pid IS NOT NULL AND database = current_database();
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database();
DO $$
DECLARE name text;
BEGIN
  FOR name IN SELECT pubname FROM pg_publication LOOP EXECUTE format('DROP PUBLICATION %I', name); END LOOP;
  FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
    EXECUTE format('DROP SCHEMA %I CASCADE', name);
  END LOOP;
  CREATE SCHEMA public;
END $$
"""

Row = tuple[bytes | None, ...]


def alike(value: Any, other: Any) -> bool:
    """Equal, of the same types, and alike where equality is not enough: NaN, -0.0, 1.10 and 1.1."""
    return type(value) is type(other) and repr(value) == repr(other)


class Shadow:
    """Two databases of one server: what is done to :attr:`source` is done to the copy by :meth:`follow`.

    Args:
        encoding: of both.
    """

    def __init__(self, server: Postgres, *, encoding: str | None = None) -> None:
        self.source = Database(server, server.create_database(encoding=encoding))
        self.copy = Database(server, server.create_database(encoding=encoding))
        self._encoding = "SQL_ASCII" if encoding == "SQL_ASCII" else "UTF8"
        self._cursors: dict[str, cursor] = {}
        self._generated: dict[tuple[str, str], list[str]] = {}
        self._reader: Reader | None = None
        self.payloads: list[bytes] = []

    def define(self, *statements: str | bytes) -> None:
        """Run DDL in both databases."""
        for text in statements:
            self.execute(text)
            self.execute_on_copy(text)

    def start(
        self, publish: str | None = "FOR ALL TABLES", publications: Iterable[str] = (PUBLICATION,)
    ) -> None:
        """Make publication and slot: what is committed from here on will be followed.

        Args:
            publish: what stands after the publication's name; ``None`` when the test has made it.
            publications: which the slot is read with.
        """
        if publish is not None:
            self.execute(f"CREATE PUBLICATION {PUBLICATION} {publish}")
        self._reader = Reader(self.source, list(publications), payloads=self.payloads)

    def execute(self, *statements: str | bytes) -> None:
        """Run SQL in the source, each statement in a transaction of its own."""
        for text in statements:
            self._cursor(self.source).execute(text)

    def execute_on_copy(self, *statements: str | bytes) -> None:
        """Run SQL in the copy, where triggers and foreign keys are off."""
        for text in statements:
            self._cursor(self.copy).execute(text)
        self._generated.clear()

    def read(self, produced: list[Event] | None = None) -> list[Event]:
        """Events since the last time, as workers get them: the same values as in the producer.

        Args:
            produced: gets the producer's own.
        """
        assert self._reader is not None, "not started"
        events = self._reader.read()
        if produced is not None:
            produced += events
        return [self._sent(event) for event in events]

    def follow(self) -> list[Event]:
        """Read events, and do what they say to the copy; each must find the one row that it is about."""
        events = self.read()
        for event in events:
            self.apply(event)
        return events

    def apply(self, event: Event) -> None:
        """Do to the copy what *event* says."""
        if event.type == "message":
            return
        applying = self._cursor(self.copy)
        applying.execute(statement(event, self._generated_columns(event)))
        if event.type != "truncate":
            assert applying.rowcount == 1, (applying.rowcount, event, event.to_json()[-2000:])

    def same(self, *tables: str, columns: Iterable[str] | None = None) -> None:
        """Fail unless the copy's tables (those named, of ``public``, or all) hold the source's rows, as text."""
        copied = {key: oid for key, oid in self._tables(self.copy).items() if not tables or key[1] in tables}
        sources = self._tables(self.source)
        assert copied
        for key in copied:
            names = list(columns or self._columns(self.copy, copied[key]))
            found = [self._rows(database, key, names) for database in (self.source, self.copy)]
            assert key in sources, f"{key} is in the copy only"
            assert found[0] == found[1], (
                "source and copy differ",
                key,
                *(row for row in zip(*found, strict=False) if row[0] != row[1]),
            )

    def _sent(self, event: Event) -> Event:
        received = over_the_wire(event)
        assert received == event
        for name in (
            "type", "name", "index", "timestamp", "lsn", "xid", "key", "new_record", "old_record", "old_key", "changes",
            "content", "cascade", "restart_identity", "transactional",
        ):  # fmt: skip
            produced, got = getattr(event, name), getattr(received, name)
            assert alike(_plain(produced), _plain(got)), (name, produced, got)
        assert list(received.source.columns.items()) == list(event.source.columns.items())
        assert repr(event) == repr(received)
        return received

    def _rows(self, database: Database, table: tuple[str, str], names: list[str]) -> list[Row]:
        cells = [b"textsend(" + printed(name) + b")" for name in names]
        selecting = self._cursor(database)
        selecting.execute(
            b"SELECT " + b", ".join(cells) + b" FROM " + identifier(table[0]) + b"." + identifier(table[1])
        )
        rows = [tuple(None if cell is None else bytes(cell) for cell in row) for row in selecting.fetchall()]
        return sorted(rows, key=lambda row: [(cell is not None, cell or b"") for cell in row])

    def _tables(self, database: Database) -> dict[tuple[str, str], int]:
        listing = self._cursor(database)
        listing.execute(_TABLES)
        return {(_text(schema), _text(name)): oid for schema, name, oid in listing.fetchall()}

    def _columns(self, database: Database, oid: int) -> dict[str, bool]:
        listing = self._cursor(database)
        listing.execute(_COLUMNS, (oid,))
        return {_text(name): generated for name, generated in listing.fetchall()}

    def _generated_columns(self, event: Event) -> list[str]:
        key = (event.source.schema, event.source.table)
        if key not in self._generated:
            columns = self._columns(self.copy, self._tables(self.copy)[key])
            self._generated[key] = [name for name, generated in columns.items() if generated]
        return self._generated[key]

    def _cursor(self, database: Database) -> cursor:
        opened = self._cursors.get(database.name)
        if opened is None:
            connection = database.connect()
            connection.set_client_encoding(self._encoding)
            opened = self._cursors[database.name] = connection.cursor()
            for name, value in SESSION.items():
                if name != "search_path":  # for the tests' own statements
                    opened.execute("SELECT set_config(%s, %s, false)", (name, value))
            if database is self.copy:
                opened.execute("SET session_replication_role = replica")
        return opened

    def reset(self) -> None:
        """Empty both databases: a tenth of the time that new ones take."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self.payloads.clear()
        self._generated.clear()
        for database in (self.source, self.copy):
            database.execute(_RESET)

    def close(self) -> None:
        """Drop both databases."""
        if self._reader is not None:
            self._reader.close()
        for opened in self._cursors.values():
            opened.connection.close()
        for database in (self.source, self.copy):
            database.server.drop_database(database.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "items") else value


def _text(sent: memoryview) -> str:
    return bytes(sent).decode("utf-8", "surrogateescape")
