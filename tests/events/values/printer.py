"""What a Postgres session prints for a value, in the settings that the casters are made for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from psycopg2.extensions import connection

from walex_celery.events.values import TypeDefinition

SETTINGS = {
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "client_encoding": "UTF8",
    "lc_monetary": "C",
}

# Types that are not built in: of each kind one, and each kind within others.
SCHEMA = """
    CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree;
    CREATE SCHEMA sales;
    CREATE TYPE sales.order_status AS ENUM ('new', 'NULL', 'on hold, "maybe"', 'back\\slash', '');
    CREATE DOMAIN cents AS bigint CHECK (VALUE >= 0);
    CREATE DOMAIN more_cents AS cents;
    CREATE DOMAIN flag AS boolean;
    CREATE DOMAIN document AS jsonb;
    CREATE DOMAIN boxes AS box[];
    CREATE DOMAIN corner AS box;
    CREATE DOMAIN grid AS integer[];
    CREATE TYPE "Odd name" AS (a integer, "B c" text, d numeric[]);
    CREATE TYPE nested AS (odd "Odd name", odds "Odd name"[], status sales.order_status, at timestamptz);
    CREATE TYPE single AS (one text);
    CREATE TYPE nothing AS ();
    CREATE TYPE textrange AS RANGE (subtype = text, collation = "C");
    CREATE TYPE oddrange AS RANGE (subtype = "Odd name");
    CREATE FUNCTION iso_8601(interval) RETURNS text SET IntervalStyle = iso_8601 STABLE
        LANGUAGE plpgsql AS 'BEGIN RETURN $1::text; END';
"""

# The same as the producer reads it from the catalog.
DEFINITIONS = {
    "sales.order_status": TypeDefinition("enum"),
    "public.cents": TypeDefinition("domain", base="bigint"),
    "public.more_cents": TypeDefinition("domain", base="public.cents"),
    "public.flag": TypeDefinition("domain", base="bool"),
    "public.document": TypeDefinition("domain", base="jsonb"),
    "public.boxes": TypeDefinition("domain", base="box[]", delimiter=";"),
    "public.corner": TypeDefinition("domain", base="box", delimiter=";"),
    "public.grid": TypeDefinition("domain", base="integer[]"),
    'public."Odd name"': TypeDefinition(
        "composite", fields=(("a", "integer"), ("B c", "text"), ("d", "numeric[]"))
    ),
    "public.nested": TypeDefinition(
        "composite",
        fields=(
            ("odd", 'public."Odd name"'),
            ("odds", 'public."Odd name"[]'),
            ("status", "sales.order_status"),
            ("at", "timestamptz"),
        ),
    ),
    "public.single": TypeDefinition("composite", fields=(("one", "text"),)),
    "public.nothing": TypeDefinition("composite"),
    "public.textrange": TypeDefinition("range", base="text"),
    "public.textmultirange": TypeDefinition("multirange", base="public.textrange"),
    "public.oddrange": TypeDefinition("range", base='public."Odd name"'),
}

#: Texts that Postgres takes, rich in what its output functions quote.
texts = st.text(
    st.sampled_from('"\\{}()[],;=> NULnul\n\t\v\u00a0')
    | st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    max_size=12,
)


class Printer:
    """One session that prints values."""

    def __init__(self, session: connection) -> None:
        self._cursor = session.cursor()
        for name, value in SETTINGS.items():
            self._cursor.execute("SELECT set_config(%s, %s, false)", (name, value))

    def text(self, expression: str, parameters: Sequence[object] | None = None) -> str:
        """Return what the output function of its type, and no cast, prints for an SQL expression."""
        self._cursor.execute(f"SELECT format(chr(37) || 's', {expression})", parameters)
        row = self._cursor.fetchone()
        assert row is not None
        text = row[0]
        assert isinstance(text, str)
        return text

    def echo(self, type_name: str, text: str) -> str:
        """Return a text after Postgres read it as a value of this type, and printed it."""
        return self.text(f"%s::{type_name}", [text])

    def column(self, query: str) -> list[Any]:
        """Return the first column of a query."""
        self._cursor.execute(query)
        return [row[0] for row in self._cursor.fetchall()]

    def decoded(self, table: str, columns: str, values: str) -> list[str]:
        """Return what pgoutput sends for a row without NULL of a new table."""
        self._cursor.execute(
            f"CREATE TABLE {table} ({columns}); CREATE PUBLICATION {table} FOR TABLE {table}"
        )
        self._cursor.execute(f"SELECT pg_create_logical_replication_slot('{table}', 'pgoutput')")
        try:
            self._cursor.execute(f"INSERT INTO {table} VALUES ({values})")
            changes = self.column(
                f"SELECT data FROM pg_logical_slot_get_binary_changes('{table}', NULL, NULL,"
                f" 'proto_version', '1', 'publication_names', '{table}')"
            )
        finally:
            self._cursor.execute(f"SELECT pg_drop_replication_slot('{table}')")
        (insert,) = (bytes(change) for change in changes if bytes(change)[:1] == b"I")
        # Byte1('I') Int32(oid) Byte1('N') Int16(columns), then of each Byte1('t') Int32(length) and the text
        texts, position = [], 8
        while position < len(insert):
            assert insert[position : position + 1] == b"t"
            end = position + 5 + int.from_bytes(insert[position + 1 : position + 5])
            texts.append(insert[position + 5 : end].decode())
            position = end
        return texts
