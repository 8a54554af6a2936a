"""What the catalog adds to a Relation message: types by name, what they are made of, and the primary key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Database, wait_until
from walex_celery.events.values import TypeDefinition
from walex_celery.postgres.catalog import Catalog
from walex_celery.postgres.pgoutput import Column, Relation, Type
from walex_celery.settings.model import load_settings


@pytest.fixture
def catalog(database: Database) -> Iterator[Catalog]:
    opened = catalog_of(database)
    yield opened
    opened.close()


def catalog_of(database: Database) -> Catalog:
    given = {"name": "shop", "url": database.url, "publication": "events"}
    settings = load_settings(given, {}).slot_settings()
    return Catalog(settings.connection, settings.publications)


def relation(database: Database, table: str) -> Relation:
    """The Relation message that the stream would bring of *table*."""
    oid = database.execute("SELECT %s::regclass::oid", [table])[0][0]
    columns = database.execute(
        "SELECT convert_from(textsend(attname::text), 'UTF8'), atttypid::bigint, atttypmod FROM pg_attribute"
        " WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [oid],
    )
    return Relation(
        oid, "public", table, "f", tuple(Column(True, name, type_oid, mod) for name, type_oid, mod in columns)
    )


def test_built_in_types_by_their_names(catalog: Catalog, database: Database) -> None:
    """Integers by their SQL names, as WalEx has them."""
    database.execute(
        "CREATE TABLE t (a int, b bigint, c smallint, d text, e varchar(3), f timestamptz, g numeric(3, 1),"
        ' h int[], i int[][], j int4range, k daterange[], l oid, m name, n int2vector, o "char")'
    )

    columns, definitions = catalog.columns(relation(database, "t"))

    assert definitions == {}
    assert list(columns.values()) == [
        "integer", "bigint", "smallint", "text", "varchar", "timestamptz", "numeric", "integer[]", "integer[]",
        "int4range", "daterange[]", "oid", "name", "int2vector", "char",
    ]  # fmt: skip


def test_types_of_the_user_with_what_they_are_made_of(catalog: Catalog, database: Database) -> None:
    database.execute(
        """
        CREATE SCHEMA "My Schema";
        CREATE TYPE mood AS ENUM ('sad', 'happy');
        CREATE DOMAIN "My Schema".positive AS int CHECK (VALUE > 0);
        CREATE TYPE pair AS ("left ""side" mood, gone text, "{odd,}" "My Schema".positive[]);
        ALTER TYPE pair DROP ATTRIBUTE gone;
        CREATE TYPE span AS RANGE (subtype = float8, multirange_type_name = spans);
        CREATE TABLE t (a mood, b "My Schema".positive, c pair[], d span, e spans)
        """
    )

    columns, definitions = catalog.columns(relation(database, "t"))

    assert columns == {
        "a": "public.mood",
        "b": '"My Schema".positive',
        "c": "public.pair[]",
        "d": "public.span",
        "e": "public.spans",
    }
    assert definitions == {
        "public.mood": TypeDefinition("enum"),
        '"My Schema".positive': TypeDefinition("domain", base="integer"),
        "public.pair": TypeDefinition(
            "composite",
            fields=(('left "side', "public.mood"), ("{odd,}", '"My Schema".positive[]')),
        ),
        "public.span": TypeDefinition("range", base="float8"),
        "public.spans": TypeDefinition("multirange", base="public.span"),
    }


def test_a_type_that_is_gone_is_known_by_what_the_stream_said(catalog: Catalog) -> None:
    """The catalog may be newer than the WAL that is read."""
    catalog.announce(Type(4_000_000_001, "shop", "mood"))
    gone = Relation(
        1,
        "public",
        "t",
        "f",
        (Column(False, "a", 4_000_000_001, -1), Column(False, "b", 4_000_000_002, -1)),
    )

    assert catalog.columns(gone) == ({"a": "shop.mood", "b": "oid 4000000002"}, {})
    assert catalog.primary_key(gone) == ()


def test_the_primary_key_in_its_own_order(catalog: Catalog, database: Database) -> None:
    database.execute('CREATE TABLE t (a int, "b ""{,}" int, c int, PRIMARY KEY (c, "b ""{,}"))')

    assert catalog.primary_key(relation(database, "t")) == ("c", 'b "{,}')


def test_a_table_without_a_primary_key(catalog: Catalog, database: Database) -> None:
    database.execute("CREATE TABLE t (a int UNIQUE NOT NULL)")

    assert catalog.primary_key(relation(database, "t")) == ()


def test_a_key_that_the_stream_does_not_bring_is_none(catalog: Catalog, database: Database) -> None:
    """A column list leaves it out, or it was added since."""
    database.execute("CREATE TABLE t (a int PRIMARY KEY, b int)")
    whole = relation(database, "t")

    assert catalog.primary_key(Relation(whole.oid, "public", "t", "f", whole.columns[1:])) == ()


def test_a_connection_that_was_cut_is_made_again(catalog: Catalog, database: Database) -> None:
    database.execute("CREATE TABLE t (a int PRIMARY KEY)")
    assert catalog.primary_key(relation(database, "t")) == ("a",)

    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'walex shop'"
        " AND datname = current_database()"
    )

    assert catalog.primary_key(relation(database, "t")) == ("a",)


def test_names_of_any_bytes(database: Database) -> None:
    """In a SQL_ASCII database; kept as lone surrogates (PEP 383)."""
    name = database.server.create_database(encoding="SQL_ASCII")
    odd = Database(database.server, name)
    catalog = catalog_of(odd)
    try:
        connection = odd.connect()
        connection.set_client_encoding("SQL_ASCII")
        with connection.cursor() as cursor:
            cursor.execute(
                b'CREATE TYPE "t\xff" AS ("f\xff" int); CREATE TABLE t ("k\xff" "t\xff", PRIMARY KEY ("k\xff"))'
            )
            cursor.execute(
                "SELECT attrelid, atttypid::bigint FROM pg_attribute"
                " WHERE attrelid = 't'::regclass AND attnum = 1"
            )
            table_oid, type_oid = cursor.fetchone()  # type: ignore[misc]
        connection.close()
        table = Relation(table_oid, "public", "t", "f", (Column(True, "k\udcff", type_oid, -1),))

        columns, definitions = catalog.columns(table)

        assert columns == {"k\udcff": 'public."t\udcff"'}
        assert definitions == {
            'public."t\udcff"': TypeDefinition("composite", fields=(("f\udcff", "integer"),))
        }
        assert catalog.primary_key(table) == ("k\udcff",)
    finally:
        catalog.close()
        database.server.drop_database(name)


def test_an_alteration_is_complete_once_the_slot_has_passed_it(catalog: Catalog, database: Database) -> None:
    """And for transactions that began after it was seen; never for those that were open meanwhile."""
    database.execute("CREATE TYPE pair AS (a int, b text)")
    database.execute("CREATE TABLE t (p pair)")
    database.execute("SELECT pg_create_logical_replication_slot('one', 'pgoutput')")
    composites = catalog.composites(relation(database, "t"))
    created = catalog.altered(composites, "one")
    altering = database.connect()
    with altering.cursor() as alter, database.connect() as writing, writing.cursor() as write:
        alter.execute("BEGIN; ALTER TYPE pair RENAME ATTRIBUTE b TO c")
        write.execute("BEGIN; SELECT pg_current_xact_id()::text::bigint")
        ((open_meanwhile,),) = write.fetchall()
        alter.execute("COMMIT")
        altered = catalog.altered(composites, "one")
        write.execute("COMMIT")
    altering.close()
    ((began_after,),) = database.execute("SELECT pg_current_xact_id()::text::bigint")

    assert not created.may_follow(open_meanwhile)
    assert altered.may_follow(open_meanwhile)
    assert catalog.altered(composites, "one").is_as(altered)
    assert not altered.may_follow(began_after)
    assert catalog.altered(composites, "no such slot").may_follow(open_meanwhile)

    wait_until(lambda: moved_on(database, altered.upper))
    passed = catalog.altered(composites, "one")
    assert not passed.uncertain
    assert not passed.is_as(altered)
    assert catalog.altered(composites, None).may_follow(open_meanwhile)
    database.execute("SELECT pg_drop_replication_slot('one')")


def moved_on(database: Database, xid: int) -> bool:
    """Whether the slot's catalog_xmin is past *xid*, with what Postgres does by itself now and then."""
    database.execute("SELECT pg_current_xact_id()")
    database.execute("CHECKPOINT")
    database.execute("SELECT pg_replication_slot_advance('one', pg_current_wal_lsn())")
    ((passed,),) = database.execute(
        "SELECT catalog_xmin::text::bigint > %s FROM pg_replication_slots WHERE slot_name = 'one'", [xid]
    )
    return bool(passed)
