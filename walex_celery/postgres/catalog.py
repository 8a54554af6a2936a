"""What the stream does not say about a relation: its types' names and parts, and its primary key.

Read over an ordinary connection, so the catalog may be newer than the WAL being read: a type that has been dropped
since is known by the name its Type message gave, and its values stay text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import psycopg2
from psycopg2.extensions import connection as Connection

from walex_celery.events.cells import text_of_cell
from walex_celery.events.values import TypeDefinition
from walex_celery.postgres.connection import connect
from walex_celery.postgres.errors import explain_error, quote_identifier
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.parameters import ConnectionSettings
from walex_celery.postgres.pgoutput import Relation, Type
from walex_celery.postgres.server import WAL_LSN

_XID_MASK: Final = 0xFFFFFFFF

#: Integers by their SQL names, as WalEx prints them; all other types by ``pg_type.typname``.
_SQL_NAMES: Final = {"int2": "smallint", "int4": "integer", "int8": "bigint"}

# Names come as bytes (textsend): a SQL_ASCII database may hold any, where text would have to be UTF-8.
_TYPES = """
SELECT t.oid, n.nspname = 'pg_catalog', textsend(t.typname::text),
       textsend(quote_ident(n.nspname) || '.' || quote_ident(t.typname)),
       t.typtype, t.typdelim,
       CASE WHEN e.typarray = t.oid THEN t.typelem END,
       nullif(t.typbasetype, 0),
       coalesce(r.rngsubtype, m.rngtypid),
       (SELECT array_agg(textsend(a.attname::text) ORDER BY a.attnum) FROM pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
       (SELECT array_agg(a.atttypid::bigint ORDER BY a.attnum) FROM pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_type t
JOIN pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_type e ON e.oid = t.typelem
LEFT JOIN pg_range r ON r.rngtypid = t.oid
LEFT JOIN pg_range m ON m.rngmultitypid = t.oid
WHERE t.oid = ANY(%s::oid[])
"""

_PRIMARY_KEY = """
SELECT array_agg(textsend(a.attname::text) ORDER BY k.position)
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, position)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = %s AND i.indisprimary
"""

# Whether a dropped table had partitions is not known; only a publication via their root would show it.
_PARTITIONED = """
SELECT CASE WHEN c.oid IS NOT NULL THEN c.relkind = 'p'
            WHEN NOT EXISTS (SELECT FROM pg_publication WHERE pubname::text = ANY(%s) AND pubviaroot) THEN false
       END
FROM (SELECT %s::oid AS oid) AS wanted LEFT JOIN pg_class AS c USING (oid)
"""

# The composites that columns of these types hold, however deep.
_COMPOSITES = """
WITH RECURSIVE part (oid) AS (
  SELECT unnest(%s::oid[])
  UNION
  SELECT inner_oid FROM part JOIN pg_type AS t USING (oid) CROSS JOIN LATERAL (
    SELECT t.typelem UNION ALL SELECT t.typbasetype
    UNION ALL SELECT rngsubtype FROM pg_range WHERE rngtypid = t.oid
    UNION ALL SELECT rngtypid FROM pg_range WHERE rngmultitypid = t.oid
    UNION ALL SELECT atttypid FROM pg_attribute
      WHERE t.typtype = 'c' AND attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped
  ) AS inner_types (inner_oid) WHERE inner_oid <> 0
)
SELECT t.typrelid::bigint FROM part JOIN pg_type AS t USING (oid) WHERE t.typtype = 'c'
"""

# Attributes that were dropped have rows too.
_ALTERING = f"""
SELECT coalesce(array_agg(DISTINCT xmin::text::bigint), '{{}}'), {WAL_LSN}
FROM pg_attribute WHERE attrelid = ANY(%s::oid[]) AND attnum > 0
"""

# The same, and how far that is known to be complete. An attribute as old as its type was not altered: no row of the
# type is older. The dependency of type and relation on each other is made with them, and stays as it is.
_ALTERED = f"""
SELECT coalesce(array_agg(DISTINCT a.xmin::text::bigint), '{{}}'),
       coalesce(array_agg(DISTINCT a.xmin::text::bigint) FILTER (WHERE a.xmin IS DISTINCT FROM made.xid), '{{}}'),
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint, {WAL_LSN}, pg_is_in_recovery(),
       (SELECT catalog_xmin::text::bigint FROM pg_replication_slots
        WHERE slot_name = %s AND database = current_database())
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid LEFT JOIN LATERAL (
  SELECT d.xmin AS xid FROM pg_depend AS d
  WHERE d.deptype = 'i' AND d.objsubid = 0 AND (
    (d.classid = 'pg_class'::regclass AND d.objid = c.oid
     AND d.refclassid = 'pg_type'::regclass AND d.refobjid = c.reltype)
    OR (d.classid = 'pg_type'::regclass AND d.objid = c.reltype
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid)
  )
) AS made ON true
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0
"""

# Two statements, in this order: who has an id holds a lock on it, or has ended and is before the second's snapshot.
_RUNNING = "SELECT transactionid::text::bigint FROM pg_locks WHERE locktype = 'transactionid'"
_ENDED = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"

_KINDS: Final = {"e": "enum", "d": "domain", "c": "composite", "r": "range", "m": "multirange"}


def _quoted(name: str) -> str:
    """As ``quote_ident`` quotes it, except for keywords; of a dropped type only the name is known."""
    return name if re.fullmatch("[a-z_][a-z0-9_]*", name) else quote_identifier(name)


def _name_of(sent: memoryview) -> str:
    return text_of_cell(bytes(sent))


class Altered(NamedTuple):
    """Transactions that altered something, and where the server was when this was read.

    No transaction with an id of ``upper`` or above had ended yet. What commits before ``wal_lsn`` is seen by the next
    query, not necessarily by this one.

    Attributes:
        uncertain: those of ``xids`` that may have been open while a transaction of a later id wrote, each with the
            first id that certainly began after it.
    """

    xids: frozenset[int]
    uncertain: Mapping[int, int | None]
    upper: int
    wal_lsn: Lsn

    def may_follow(self, xid: int) -> bool:
        """Whether one of them may have ended after *xid* began; ids wrap around (manual, section 67.1)."""
        if any(not _precedes(altering, xid) and _precedes(altering, self.upper) for altering in self.xids):
            return True
        return any(begun is None or _precedes(xid, begun) for begun in self.uncertain.values())

    def is_as(self, before: Altered) -> bool:
        """Whether nothing has been altered since *before*, and no more is known of the alterations."""
        return (self.xids, self.uncertain) == (before.xids, before.uncertain)


def _distance(xid: int, other: int) -> int:
    """How many ids *other* is after *xid*; negative before it."""
    ahead = (other - xid) & _XID_MASK
    return ahead if ahead <= _XID_MASK // 2 else ahead - _XID_MASK - 1


def _precedes(xid: int, other: int) -> bool:
    return (xid - other) & _XID_MASK > _XID_MASK // 2


class Catalog:
    """The catalog of one database, read when a Relation message needs it.

    Args:
        settings: how to connect to the database.
        publications: those being streamed, for :meth:`is_partitioned`.
    """

    def __init__(self, settings: ConnectionSettings, publications: Sequence[str] = ()) -> None:
        self._settings = settings
        self._publications = list(publications)
        self._connection: Connection | None = None
        self._announced: dict[int, Type] = {}
        self._begun_after: dict[int, int | None] = {}

    def announce(self, type: Type) -> None:
        """Remember the name that the stream gave a type, in case the catalog does not have it any more."""
        self._announced[type.oid] = type

    def columns(self, relation: Relation) -> tuple[dict[str, str], dict[str, TypeDefinition]]:
        """Type name by column name, and the definitions of those types that are not built in."""
        rows = self._type_rows({column.type_oid for column in relation.columns})
        names: dict[int, str] = {}
        definitions: dict[str, TypeDefinition] = {}
        columns = {
            column.name: self._name(column.type_oid, rows, names, definitions) for column in relation.columns
        }
        return columns, definitions

    def primary_key(self, relation: Relation) -> tuple[str, ...]:
        """The columns of the relation's primary key; empty without one."""
        rows = self._query(_PRIMARY_KEY, (relation.oid,))
        present = {column.name for column in relation.columns}
        key = tuple(map(_name_of, rows[0][0] or ())) if rows else ()
        return key if present.issuperset(key) else ()

    def wal_lsn(self) -> Lsn:
        """How far the WAL is written; on a standby server, how far it is replayed."""
        ((lsn,),) = self._query(f"SELECT {WAL_LSN}", ())
        return Lsn.parse(lsn)

    def is_partitioned(self, relation: Relation) -> bool | None:
        """Whether its rows are those of partitions; ``None`` if that is not known, because it was dropped."""
        ((partitioned,),) = self._query(_PARTITIONED, (self._publications, relation.oid))
        return None if partitioned is None else bool(partitioned)

    def composites(self, relation: Relation) -> list[int]:
        """The composite types within the relation's columns, by the oids of their rows in ``pg_class``."""
        oids = [column.type_oid for column in relation.columns]
        return [row[0] for row in self._query(_COMPOSITES, (oids,))]

    def altering(self, composites: Sequence[int]) -> tuple[frozenset[int], Lsn]:
        """As :meth:`altered`, the transactions alone, and where the server was: a quarter of its time."""
        ((xids, wal_lsn),) = self._query(_ALTERING, (list(composites),))
        return frozenset(map(int, xids)), Lsn.parse(wal_lsn)

    def altered(self, composites: Sequence[int], slot: str | None) -> Altered:
        """The transactions that last changed the composite types that :meth:`composites` returned.

        Ids are given when a transaction begins to write, and say nothing of the order of commits. So a later id is
        not enough. The alteration had ended before a row was written if it is older than the ``catalog_xmin`` of
        *slot*: Postgres keeps the catalog as it was for all that is still to be streamed (manual, section 53.20).
        Or if the row's transaction began after the alteration had been seen here; without *slot*, only then.
        """
        ((xids, altering, upper, wal_lsn, is_standby, horizon),) = self._query(
            _ALTERED, (slot, list(composites))
        )
        upper = int(upper) & _XID_MASK
        uncertain: dict[int, int | None] = {}
        for xid in map(int, altering):
            if (horizon is not None and _precedes(xid, int(horizon))) or not _precedes(xid, upper):
                self._begun_after.pop(xid, None)
                continue
            if xid not in self._begun_after:
                # A standby server does not know which transactions run.
                self._begun_after[xid] = None if is_standby else self._next_xid(upper)
            uncertain[xid] = self._begun_after[xid]
        return Altered(frozenset(map(int, xids)), uncertain, upper, Lsn.parse(wal_lsn))

    def _next_xid(self, least: int) -> int:
        """An id that no transaction has that wrote before this was called."""
        running = [int(row[0]) + 1 for row in self._query(_RUNNING, ())]
        ((ended,),) = self._query(_ENDED, ())
        return max((xid & _XID_MASK for xid in (*running, int(ended))), key=lambda xid: _distance(least, xid))

    def close(self) -> None:
        """Close the connection; the next query opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _type_rows(self, oids: Iterable[int]) -> dict[int, Sequence[Any]]:
        """The types of *oids*, and those they consist of."""
        rows: dict[int, Sequence[Any]] = {}
        wanted = set(oids)
        while wanted:
            found = {row[0]: row for row in self._query(_TYPES, (sorted(wanted),))}
            rows |= found
            parts: set[int] = set()
            for row in found.values():
                parts |= {int(oid) for oid in row[6:9] if oid}
                parts |= set(row[10] or ())
            wanted = parts - rows.keys()
            if not found:
                break
        return rows

    def _name(
        self,
        oid: int,
        rows: dict[int, Sequence[Any]],
        names: dict[int, str],
        definitions: dict[str, TypeDefinition],
    ) -> str:
        if oid in names:
            return names[oid]
        row = rows.get(oid)
        if row is None:
            announced = self._announced.get(oid)
            names[oid] = name = self._announced_name(announced) if announced else f"oid {oid}"
            return name
        _, built_in, typname, qualified, typtype, delimiter, element, base, part, attributes, oids = row
        if element:
            names[oid] = name = self._name(int(element), rows, names, definitions) + "[]"
            return name
        if built_in:
            typname = _name_of(typname)
            names[oid] = name = _SQL_NAMES.get(typname, typname)
            return name
        names[oid] = qualified = _name_of(qualified)
        kind = _KINDS.get(typtype, "base")
        inner = base or part
        fields = tuple(
            (_name_of(attribute), self._name(part_oid, rows, names, definitions))
            for attribute, part_oid in zip(attributes or (), oids or (), strict=True)
        )
        definitions[qualified] = TypeDefinition(
            kind=kind,  # type: ignore[arg-type]
            base=self._name(int(inner), rows, names, definitions) if inner else "",
            fields=fields,
            delimiter=delimiter,
        )
        return qualified

    @staticmethod
    def _announced_name(type: Type) -> str:
        if type.namespace == "pg_catalog":
            return _SQL_NAMES.get(type.name, type.name)
        return f"{_quoted(type.namespace)}.{_quoted(type.name)}"

    def _query(self, query: str, parameters: tuple[Any, ...]) -> list[Sequence[Any]]:
        for attempt in (1, 2):
            if self._connection is None or self._connection.closed:
                self._connection = connect(self._settings)
            try:
                with self._connection.cursor() as cursor:
                    cursor.execute(query, parameters)
                    return list(cursor.fetchall())
            except psycopg2.OperationalError as error:
                # It may have been cut while idle; whether Postgres is up shows on a new connection.
                self.close()
                if attempt == 2:
                    raise explain_error(error, self._settings) from error
            except psycopg2.Error as error:
                raise explain_error(error, self._settings) from error
        raise AssertionError("unreachable")
