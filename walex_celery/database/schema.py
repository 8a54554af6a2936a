"""The tables and publications of a database, read once for ``setup``, ``doctor`` and the producer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Final

import msgspec
import psycopg2
from psycopg2.extensions import connection as Connection

from walex_celery.errors import SetupError
from walex_celery.filters import Table
from walex_celery.handlers.kinds import KINDS, PUBLISHED
from walex_celery.postgres.errors import explain_error
from walex_celery.settings.model import WalExSettings

#: The first version with column lists, row filters and schemas in publications.
VERSION_15: Final = 150000

# Identity columns: those of the primary key ('d') or of the chosen index ('i'); all ('f') or none ('n').
_TABLES = """
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', c.relreplident::text, c.relpersistence::text,
       pg_get_userbyid(c.relowner)::text,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a
               ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
             WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident
               WHEN 'd' THEN i.indisprimary ELSE false END),
       ARRAY(SELECT relid::oid::bigint FROM pg_partition_ancestors(c.oid) WHERE relid <> c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND n.nspname NOT LIKE 'pg\\_temp\\_%'
ORDER BY n.nspname, c.relname
"""

_FLAGS = ", ".join(f"('{name}', {KINDS[name].publication_flag})" for name in PUBLISHED)
_PUBLICATIONS = f"""
SELECT oid, pubname::text, puballtables, pubviaroot,
       ARRAY(SELECT kind FROM (VALUES {_FLAGS}) AS flags (kind, published) WHERE published)
FROM pg_publication WHERE pubname = ANY (%s)
"""

_MEMBERS = """
SELECT r.prpubid, r.prrelid::bigint, {columns}, {condition} FROM pg_publication_rel r
"""
_COLUMN_LIST = """
  CASE WHEN r.prattrs IS NOT NULL THEN
    ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = r.prrelid AND attnum = ANY (r.prattrs)) END
"""
_SCHEMAS = """
SELECT p.pnpubid, n.nspname::text FROM pg_publication_namespace p JOIN pg_namespace n ON n.oid = p.pnnspid
"""


class TableState(msgspec.Struct, frozen=True):
    """A table as the catalog has it.

    Attributes:
        table: schema and name.
        oid: of ``pg_class``.
        partitioned: whether it is the root, or an inner node, of a partition tree.
        identity: ``pg_class.relreplident``: ``d`` default, ``f`` full, ``i`` index, ``n`` nothing.
        persistence: ``p`` permanent, ``u`` unlogged.
        owner: the role that may alter it.
        columns: in the order of their positions.
        key: the columns of the old row in an update or delete, unless the identity is full.
        ancestors: oids of a partition's ancestors, the nearest first.
    """

    table: Table
    oid: int
    partitioned: bool
    identity: str
    persistence: str
    owner: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    ancestors: tuple[int, ...]

    @property
    def old_rows_are_whole(self) -> bool:
        """Whether updates and deletes carry the whole old row."""
        return self.identity == "f"

    @property
    def can_be_updated(self) -> bool:
        """Whether Postgres allows updates while they are published."""
        return self.identity == "f" or bool(self.key)


class Member(msgspec.Struct, frozen=True):
    """A table in a publication: its column list and row filter, if any (Postgres 15)."""

    columns: tuple[str, ...] | None
    condition: str | None


class PublicationState(msgspec.Struct, frozen=True):
    """A publication as the catalog has it; ``members`` by table oid."""

    name: str
    all_tables: bool
    via_root: bool
    operations: frozenset[str]
    members: dict[int, Member]
    schemas: frozenset[str]

    def member(self, state: TableState) -> Member | None:
        """How it publishes *state*, itself or through an ancestor; ``None`` if it does not.

        If several have a column list, that of the root counts if it publishes via the root.
        """
        oids = (state.oid, *state.ancestors)
        found = [self.members[oid] for oid in oids if oid in self.members]
        if found:
            return found[-1] if self.via_root else found[0]
        if self.all_tables or state.table.schema in self.schemas:
            return Member(None, None)
        return None


class Schema:
    """The tables of a database, and those of the configured publications that exist.

    Args:
        tables: all.
        publications: those that are configured.
        names: of all publications.
    """

    def __init__(
        self,
        tables: Iterable[TableState],
        publications: Iterable[PublicationState],
        names: Iterable[str] = (),
    ) -> None:
        self.publication_names = tuple(names)
        self.tables = {state.table: state for state in tables}
        self.publications = {publication.name: publication for publication in publications}

    @cached_property
    def by_oid(self) -> dict[int, TableState]:
        """The tables by oid."""
        return {state.oid: state for state in self.tables.values()}

    def leaves(self, state: TableState) -> list[TableState]:
        """The partitions that store the rows of *state*."""
        return self._leaves.get(state.oid, [])

    @cached_property
    def _leaves(self) -> dict[int, list[TableState]]:
        found: dict[int, list[TableState]] = {}
        for state in self.tables.values():
            if state.ancestors and not state.partitioned and state.persistence == "p":
                for oid in state.ancestors:
                    found.setdefault(oid, []).append(state)
        return found

    def published_by(self, state: TableState) -> list[PublicationState]:
        """The configured publications that include *state*."""
        return [found for found in self.publications.values() if found.member(state) is not None]

    def published_as(self, state: TableState) -> Iterator[tuple[PublicationState, TableState]]:
        """For each publication, the table under whose name it sends the rows of *state*, which is not partitioned."""
        for publication in self.published_by(state):
            shown = state
            if publication.via_root:
                for oid in state.ancestors:
                    ancestor = self.by_oid.get(oid)
                    if ancestor is not None and publication.member(ancestor) is not None:
                        shown = ancestor
            yield publication, shown


def read_schema(connection: Connection, settings: WalExSettings) -> Schema:
    """Read the catalog.

    Raises:
        WalExError: the catalog can't be read.
    """
    modern = connection.server_version >= VERSION_15
    members = _MEMBERS.format(
        columns=_COLUMN_LIST if modern else "NULL",
        condition="pg_get_expr(r.prqual, r.prrelid)" if modern else "NULL",
    )
    try:
        with connection.cursor() as cursor:
            tables = [_table_state(row) for row in _rows(cursor, _TABLES)]
            found = _rows(cursor, _PUBLICATIONS, (list(settings.publication),))
            names = _rows(cursor, "SELECT pubname::text FROM pg_publication")
            memberships = _rows(cursor, members)
            schemas = _rows(cursor, _SCHEMAS) if modern else []
    except psycopg2.Error as error:
        raise explain_error(error, settings.connection_settings()) from error
    publications = [
        PublicationState(
            name,
            all_tables,
            via_root,
            frozenset(operations),
            {
                relation: Member(None if columns is None else tuple(columns), condition)
                for publication, relation, columns, condition in memberships
                if publication == oid
            },
            frozenset(schema for publication, schema in schemas if publication == oid),
        )
        for oid, name, all_tables, via_root, operations in found
    ]
    return Schema(tables, publications, (name for (name,) in names))


def _rows(cursor: Any, query: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    cursor.execute(query, parameters)
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _table_state(row: tuple[Any, ...]) -> TableState:
    oid, schema, name, partitioned, identity, persistence, owner, columns, key, ancestors = row
    return TableState(
        Table(schema, name),
        int(oid),
        partitioned,
        identity,
        persistence,
        owner,
        tuple(columns),
        tuple(key),
        tuple(map(int, ancestors)),
    )


def missing_publications(schema: Schema, settings: WalExSettings) -> list[str]:
    """The configured publications that don't exist."""
    return [name for name in settings.publication if name not in schema.publications]


def missing_tables(schema: Schema, settings: WalExSettings) -> list[Table]:
    """The subscribed tables that don't exist."""
    return [
        table for table in settings.subscriptions if isinstance(table, Table) and table not in schema.tables
    ]


def require_tables(schema: Schema, settings: WalExSettings) -> None:
    """Check that every subscribed table exists.

    Raises:
        SetupError: some don't; the message suggests similar names.
    """
    missing = missing_tables(schema, settings)
    if missing:
        names = "; ".join(f"{table}{similar(table, schema)}" for table in missing)
        raise SetupError(
            f"database {settings.database!r} has no table {names}\n"
            "  fix: create it (run your migrations), or correct subscriptions="
        )


def similar(table: Table, schema: Schema) -> str:
    """`` (did you mean sales.users?)`` if there is a table with a similar name, else empty."""
    return did_you_mean(map(str, meant_by(table, schema.tables)))


def meant_by(table: Table, tables: Iterable[Table]) -> list[Table]:
    """Those of *tables* that a *table* that does not exist is likely to stand for."""
    by_text = {str(other): other for other in tables}
    namesakes = [other for other in by_text.values() if other.name == table.name]
    return namesakes or [by_text[close] for close in get_close_matches(str(table), by_text, n=1)]


def did_you_mean(names: Iterable[str]) -> str:
    """`` (did you mean a or b?)``; empty without *names*."""
    listed = " or ".join(names)
    return f" (did you mean {listed}?)" if listed else ""
