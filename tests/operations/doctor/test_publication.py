"""Publications and replica identity: each fault made for real, found, and fixed by the lines that are printed."""

from __future__ import annotations

import pytest

from tests.operations.doctor.support import Clinic, ids, only
from tests.operations.support import ignore
from walex_celery import Filters
from walex_celery.database import publication
from walex_celery.database import replica_identity as identity

PARTITIONED = (
    "DROP TABLE users; CREATE TABLE users (id int PRIMARY KEY, name text, updated_at timestamptz) PARTITION BY"
    " RANGE (id); CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (0) TO (10);"
    " ALTER TABLE users REPLICA IDENTITY FULL; ALTER TABLE users_1 REPLICA IDENTITY FULL;"
    " ALTER PUBLICATION events ADD TABLE users; ALTER PUBLICATION events SET (publish_via_partition_root = true);"
)
KEYLESS = "CREATE TABLE other (id int); ALTER PUBLICATION events ADD TABLE other;"

FAULTS = [
    ("DROP PUBLICATION events", {("publication_exists", "error")}, "'events' does not exist"),
    (
        "ALTER PUBLICATION events DROP TABLE users",
        {("tables_published", "error")},
        "publication events lacks users",
    ),
    (
        "ALTER PUBLICATION events DROP TABLE users; ALTER TABLE users SET UNLOGGED",
        {("tables_published", "error")},
        "users is UNLOGGED",
    ),
    (
        "CREATE TABLE other (id int PRIMARY KEY); ALTER PUBLICATION events ADD TABLE other",
        {("published_for_nothing", "info")},
        "'events' has other, which is not subscribed",
    ),
    (
        "ALTER PUBLICATION events SET (publish = 'insert')",
        {("operations_published", "error")},
        "handlers want delete, truncate, update",
    ),
    (
        PARTITIONED + "ALTER PUBLICATION events SET (publish_via_partition_root = false)",
        {("partition_names", "error")},
        "sends the rows of users under the names of its partitions",
    ),
    (
        "ALTER TABLE users REPLICA IDENTITY DEFAULT; ALTER PUBLICATION events SET TABLE users (id, name)",
        {("column_lists", "error"), ("old_values", "warning")},
        "leaves out updated_at of users",
    ),
    (
        "ALTER TABLE users ADD extra text; ALTER PUBLICATION events SET TABLE users (id, name, updated_at)",
        {("column_lists", "error")},
        "leaves out columns of users's replica identity",
    ),
    (
        "ALTER TABLE users REPLICA IDENTITY DEFAULT",
        {("old_values", "warning")},
        "replica identity of users is not FULL",
    ),
    (
        PARTITIONED + "ALTER TABLE users_1 REPLICA IDENTITY DEFAULT",
        {("old_values", "warning")},
        "users's partitions users_1 is not FULL",
    ),
    (
        "ALTER TABLE users REPLICA IDENTITY NOTHING",
        {("old_values", "warning"), ("updates_accepted", "error")},
        "users has no replica identity",
    ),
    (
        KEYLESS + "ALTER PUBLICATION events DROP TABLE users; ALTER PUBLICATION events ADD TABLE users",
        {("published_for_nothing", "info"), ("updates_accepted", "error")},
        "Postgres refuses its UPDATE and DELETE to everyone",
    ),
]


@pytest.mark.parametrize(("fault", "expected", "words"), FAULTS)
def test_is_found_and_fixed(clinic: Clinic, fault: str, expected: set[tuple[str, str]], words: str) -> None:
    clinic.execute_all(fault)
    findings = clinic.examine()
    assert ids(findings) == expected
    assert any(words in finding.sentence for finding in findings), findings
    assert clinic.fix() == []


def test_an_unlogged_table_is_told_once(clinic: Clinic) -> None:
    """It can't be added to the publication before it is logged."""
    clinic.execute_all("ALTER PUBLICATION events DROP TABLE users; ALTER TABLE users SET UNLOGGED")
    assert (
        only(clinic.examine(), "tables_published").fix[0].line == 'ALTER TABLE "public"."users" SET LOGGED;'
    )


def test_nothing_is_found_where_all_is_right(clinic: Clinic) -> None:
    assert clinic.examine() == []


@pytest.mark.parametrize(
    "fine",
    [
        PARTITIONED,
        "DROP PUBLICATION events; CREATE PUBLICATION events FOR TABLES IN SCHEMA public",
        "CREATE TABLE other (id int); CREATE PUBLICATION others FOR TABLE other",
        "CREATE TABLE other (id int); ALTER PUBLICATION events SET (publish = 'insert, update, delete, truncate')",
        "DROP PUBLICATION events; CREATE PUBLICATION events FOR TABLE users (id, name, updated_at)"
        " WITH (publish = 'insert, truncate');"
        " CREATE PUBLICATION rest FOR TABLE users (id, name, updated_at)",
    ],
    ids=[
        "partitions by their root",
        "a schema",
        "another publication",
        "a table apart",
        "column list with all",
    ],
)
def test_no_false_alarm(clinic: Clinic, fine: str) -> None:
    clinic.execute_all(fine)
    walex = clinic.walex
    if "PUBLICATION rest" in fine:
        clinic.execute("ALTER PUBLICATION rest SET (publish = 'insert')")
        walex = clinic.application(publication=["events"])
        walex.on_insert("users")(ignore)
    assert clinic.examine(walex, (publication, identity)) == []


def test_a_table_that_does_not_exist(clinic: Clinic) -> None:
    walex = clinic.application(subscriptions=["users", "user"])
    finding = only(clinic.examine(walex), "tables_exist")
    assert finding.severity == "error"
    assert "has no such table (did you mean users?)" in finding.sentence


def test_a_partition_that_is_published_as_its_root(clinic: Clinic) -> None:
    clinic.execute_all(PARTITIONED)
    walex = clinic.application(subscriptions=["users_1"])
    finding = only(clinic.examine(walex), "partition_names")
    assert "rows of partition users_1 under the name users" in finding.sentence
    assert finding.fix[0].line == "subscriptions=[..., 'users']  # instead of 'users_1'"


def test_all_tables_published_for_one(clinic: Clinic) -> None:
    clinic.execute("CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE another (id int PRIMARY KEY)")
    clinic.execute("DROP PUBLICATION events")
    clinic.execute("CREATE PUBLICATION events FOR ALL TABLES")
    finding = only(clinic.examine(), "published_for_nothing")
    assert (finding.severity, finding.fix) == ("info", ())
    assert "has all tables: 2 tables that are not subscribed" in finding.sentence


def test_a_star_of_a_publication_that_lists_tables(clinic: Clinic) -> None:
    clinic.execute("CREATE TABLE other (id int PRIMARY KEY)")
    finding = only(clinic.examine(clinic.application(subscriptions=["*"])), "tables_published")
    assert finding.severity == "info"
    assert "the 1 tables that the publication lists, of 2" in finding.sentence


def test_two_publications_with_other_columns(clinic: Clinic) -> None:
    clinic.execute("CREATE PUBLICATION narrow FOR TABLE users (id) WITH (publish = 'insert')")
    walex = clinic.application(publication=["events", "narrow"])
    finding = only(clinic.examine(walex), "column_lists")
    assert "different column lists of users" in finding.sentence


def test_a_row_filter_is_told(clinic: Clinic) -> None:
    clinic.execute("ALTER PUBLICATION events SET TABLE users WHERE (id > 7)")
    finding = only(clinic.examine(), "row_filters")
    assert (finding.severity, finding.fix) == ("info", ())
    assert "WHERE (id > 7)" in finding.sentence


def test_what_a_handler_may_want_to_see_is_told_only(clinic: Clinic) -> None:
    clinic.execute("ALTER TABLE users REPLICA IDENTITY DEFAULT")
    walex = clinic.application()
    walex.on_delete("users", Filters(unwatched_records={"id": 7}))(ignore)
    findings = clinic.examine(walex)
    assert ids(findings) == {("old_values", "info")}
    assert "a deleted row is only its key" in findings[0].sentence
    assert "a TOASTed (large) value that an update did not change is absent" in findings[0].sentence
    assert "reading it is a KeyError" in findings[0].sentence


def test_what_is_not_sent_is_told_where_filters_need_full_too(clinic: Clinic) -> None:
    """A handler of updates with a filter reads columns as well; one of deletes gets no update."""
    clinic.execute("ALTER TABLE users REPLICA IDENTITY DEFAULT")
    walex = clinic.application()
    walex.on_delete("users", Filters(unwatched_records={"name": "x"}))(ignore)
    deletes = only(clinic.examine(walex), "old_values")
    walex.on_update("users", Filters(unwatched_fields=["updated_at"]))(ignore)
    updates = only(clinic.examine(walex), "old_values")

    assert (deletes.severity, updates.severity) == ("warning", "warning")
    assert "KeyError" not in deletes.sentence
    assert updates.sentence.endswith(
        "drop nothing, and a TOASTed (large) value that an update did not change is absent from event.new_record "
        "(reading it is a KeyError)"
    )


def test_a_filter_names_a_column_that_no_table_has(clinic: Clinic) -> None:
    walex = clinic.application()
    walex.on_event("users", Filters(unwatched_fields=["updated_att"]))(ignore)
    walex.on_event("all", Filters(unwatched_records={"hidden": True}))(ignore)

    first, second = (finding for finding in clinic.examine(walex=walex) if finding.check == "filter_columns")

    assert (first.severity, second.severity) == ("warning", "warning")
    assert "name updated_att, which users does not have (did you mean updated_at?)" in first.sentence
    assert "name hidden, which no subscribed table has" in second.sentence
