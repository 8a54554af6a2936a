"""``walex setup``: the database fits the application, nothing is taken away, a second run has nothing to do."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from tests.operations.support import application, command, ignore
from tests.support import Database, wait_until
from walex_celery import Filters, WalEx
from walex_celery.cli.setup import setup_command
from walex_celery.errors import ConfigurationError, SetupError, SlotMismatch
from walex_celery.filters import Table
from walex_celery.operations.setup.plan import Question, administrator, plan, run
from walex_celery.postgres.connection import connect


@pytest.fixture
def users(database: Database) -> Database:
    """A database with a table of users."""
    database.execute("CREATE TABLE users (id int PRIMARY KEY, name text, updated_at timestamptz)")
    return database


def full(question: Question) -> bool:
    return True


def default(question: Question) -> bool:
    return False


def refusing(asked: list[Question]) -> Callable[[Question], bool]:
    """Remembers what is asked, and answers no."""

    def decide(question: Question) -> bool:
        asked.append(question)
        return False

    return decide


Decide = Callable[[Question], bool]


def statements(walex: WalEx, decide: Decide = default) -> list[str]:
    """What setup would run."""
    connection = connect(walex.settings.connection_settings())
    try:
        return [
            change.sql for change in plan(connection, walex.settings, walex.handlers, decide=decide).changes
        ]
    finally:
        connection.close()


def set_up(walex: WalEx, decide: Decide = default) -> list[str]:
    """Run setup, and see that a second run would find nothing to do; gives what ran."""
    connection = connect(walex.settings.connection_settings())
    try:
        found = plan(connection, walex.settings, walex.handlers, decide=decide)
        run(connection, walex.settings, found.changes)
    finally:
        connection.close()
    assert statements(walex, decide) == []
    return [change.sql for change in found.changes]


def published(database: Database, publication: str = "events") -> set[str]:
    rows = database.execute("SELECT tablename FROM pg_publication_tables WHERE pubname = %s", [publication])
    return {name for (name,) in rows}


def identity(database: Database, table: str) -> str:
    ((found,),) = database.execute("SELECT relreplident FROM pg_class WHERE relname = %s", [table])
    return str(found)


def flag(database: Database, column: str) -> bool:
    ((found,),) = database.execute(f"SELECT {column} FROM pg_publication WHERE pubname = 'events'")
    return bool(found)


def test_makes_the_publication_and_the_durable_slot(users: Database) -> None:
    walex = application(users, durable_slot=True)
    assert set_up(walex) == [
        'CREATE PUBLICATION "events" FOR TABLE "public"."users";',
        f"SELECT pg_create_logical_replication_slot('{users.name}', 'pgoutput');",
    ]
    assert published(users) == {"users"}
    assert users.execute(
        "SELECT plugin, temporary, slot_type FROM pg_replication_slots WHERE slot_name = %s", [users.name]
    ) == [("pgoutput", False, "logical")]


def test_a_failover_slot(users: Database) -> None:
    set_up(application(users, durable_slot=True, failover=True))
    assert users.execute("SELECT failover FROM pg_replication_slots WHERE slot_name = %s", [users.name]) == [
        (True,)
    ]


def test_a_temporary_slot_is_left_to_the_producer(users: Database) -> None:
    assert set_up(application(users)) == ['CREATE PUBLICATION "events" FOR TABLE "public"."users";']


def test_adds_to_a_publication_and_takes_nothing_away(users: Database) -> None:
    users.execute("CREATE TABLE others (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE others")
    assert set_up(application(users)) == ['ALTER PUBLICATION "events" ADD TABLE "public"."users";']
    assert published(users) == {"users", "others"}


def test_tables_of_a_published_schema_are_published(users: Database) -> None:
    users.execute("CREATE PUBLICATION events FOR TABLES IN SCHEMA public")
    assert statements(application(users)) == []


def test_all_tables(users: Database) -> None:
    assert set_up(application(users, subscriptions=["*"])) == ['CREATE PUBLICATION "events" FOR ALL TABLES;']
    assert flag(users, "puballtables")


def test_all_tables_of_a_publication_that_lists_some_are_those(users: Database) -> None:
    """Postgres can't make such a publication one FOR ALL TABLES; what a handler names is added."""
    users.execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE users")
    walex = application(users, subscriptions=["*"])
    result = command(walex, setup_command)
    assert "publication events lists its tables: subscriptions '*' are those" in result.output
    assert "nothing to do" in result.output
    walex.on_insert("orders")(ignore)
    assert set_up(walex) == ['ALTER PUBLICATION "events" ADD TABLE "public"."orders";']


def test_of_several_publications_the_first_takes_what_is_missing(users: Database) -> None:
    users.execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE PUBLICATION second FOR TABLE orders")
    walex = application(users, publication=["first", "second", "third"], subscriptions=["users", "orders"])
    assert set_up(walex) == [
        'CREATE PUBLICATION "first" FOR TABLE "public"."users";',
        'CREATE PUBLICATION "third";',
    ]


def test_names_are_quoted(users: Database) -> None:
    users.execute('CREATE SCHEMA "sa-les"; CREATE TABLE "sa-les"."Ord""ers; DROP" (id int PRIMARY KEY)')
    table = Table("sa-les", 'Ord"ers; DROP')
    walex = application(users, publication='it"s; ours', subscriptions=[table])
    walex.on_update(table)(ignore)
    assert set_up(walex, full) == [
        'ALTER TABLE "sa-les"."Ord""ers; DROP" REPLICA IDENTITY FULL;',
        'CREATE PUBLICATION "it""s; ours" FOR TABLE "sa-les"."Ord""ers; DROP";',
    ]


def test_a_partitioned_table_is_published_under_its_own_name(database: Database) -> None:
    database.execute(
        "CREATE TABLE users (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        " CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (0) TO (10)"
    )
    walex = application(database)
    assert set_up(walex) == [
        'CREATE PUBLICATION "events" FOR TABLE "public"."users" WITH (publish_via_partition_root = true);'
    ]
    database.execute("ALTER PUBLICATION events SET (publish_via_partition_root = false)")
    assert set_up(walex) == ['ALTER PUBLICATION "events" SET (publish_via_partition_root = true);']
    database.execute(
        "DROP PUBLICATION events; CREATE TABLE others (id int PRIMARY KEY); CREATE PUBLICATION events FOR TABLE others"
    )
    assert set_up(walex) == [
        'ALTER PUBLICATION "events" ADD TABLE "public"."users";',
        'ALTER PUBLICATION "events" SET (publish_via_partition_root = true);',
    ]
    assert published(database) == {"users", "others"}


def test_what_handlers_want_is_published_besides_what_is(users: Database) -> None:
    users.execute("CREATE PUBLICATION events FOR TABLE users WITH (publish = 'insert')")
    walex = application(users)
    walex.on_delete("users")(ignore)
    assert set_up(walex) == ["ALTER PUBLICATION \"events\" SET (publish = 'insert, delete');"]


def test_replica_identity_is_asked_for_where_old_values_are_wanted(users: Database) -> None:
    users.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, paid bool); CREATE TABLE lines (id int PRIMARY KEY)"
    )
    walex = application(users, subscriptions=["users", "orders", "lines"])
    walex.on_update("users", Filters(unwatched_fields=["updated_at"]))(ignore)
    walex.on_delete("orders", Filters(unwatched_records={"paid": False}))(ignore)
    walex.on_insert("lines")(ignore)
    asked: list[Question] = []
    set_up(walex, refusing(asked))
    # The second time, for what is left: see set_up.
    assert [(str(question.table), question.advised) for question in asked[:2]] == [
        ("users", True),
        ("orders", True),
    ]
    assert "unwatched_fields" in asked[0].reason
    assert "on deletes (paid)" in asked[1].reason
    assert identity(users, "users") == "d"
    set_up(walex, full)
    assert [identity(users, name) for name in ("users", "orders", "lines")] == ["f", "f", "d"]


def test_a_delete_filter_on_the_key_needs_no_old_row(users: Database) -> None:
    walex = application(users)
    walex.on_delete("users", Filters(unwatched_records={"id": 0}))(ignore)
    asked: list[Question] = []
    statements(walex, refusing(asked))
    assert [question.advised for question in asked] == [False], "offered for what a handler may want to see"


def test_partitions_get_the_replica_identity_of_their_table(database: Database) -> None:
    database.execute(
        "CREATE TABLE users (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);"
        " CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (0) TO (10);"
        " CREATE TABLE users_2 PARTITION OF users FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);"
        " CREATE TABLE users_2_1 PARTITION OF users_2 FOR VALUES FROM (10) TO (15);"
        " ALTER TABLE users REPLICA IDENTITY FULL; ALTER TABLE users_1 REPLICA IDENTITY FULL;"
        " CREATE PUBLICATION events FOR TABLE users WITH (publish_via_partition_root = true)"
    )
    walex = application(database)
    walex.on_update("users", Filters(unwatched_fields=["name"]))(ignore)
    assert set_up(walex, full) == ['ALTER TABLE "public"."users_2_1" REPLICA IDENTITY FULL;']


@pytest.mark.parametrize("subscriptions", [["users"], ["*"]])
def test_a_table_without_a_key_is_not_published_by_surprise(
    database: Database, subscriptions: list[str]
) -> None:
    """Published so, Postgres would refuse the application's own UPDATE and DELETE."""
    database.execute("CREATE TABLE users (id int)")
    walex = application(database, subscriptions=subscriptions)
    with pytest.raises(SetupError, match=r"users has no primary key(?s:.)*--replica-identity full"):
        set_up(walex)
    assert published(database) == set()
    set_up(walex, full)
    database.execute("INSERT INTO users VALUES (1); UPDATE users SET id = 2; DELETE FROM users")


def test_a_table_that_is_missing_is_named_before_anything_is_done(users: Database) -> None:
    users.execute("CREATE SCHEMA sales; CREATE TABLE sales.orders (id int)")
    with pytest.raises(
        SetupError,
        match=r"has no table user \(did you mean users\?\); orders \(did you mean sales.orders\?\); zebras\n",
    ):
        set_up(application(users, subscriptions=["user", "orders", "zebras"]))
    assert users.execute("SELECT count(*) FROM pg_publication") == [(0,)]


def test_a_slot_of_another_kind_is_told(users: Database) -> None:
    users.execute("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", [users.name])
    with pytest.raises(SlotMismatch, match="is of plugin 'test_decoding'"):
        set_up(application(users, durable_slot=True))


def test_the_sql_of_a_dry_run_does_the_same(users: Database) -> None:
    walex = application(users, durable_slot=True)
    walex.on_update("users", Filters(unwatched_fields=["name"]))(ignore)
    result = command(walex, setup_command, "--dry-run", "--replica-identity", "full")
    assert result.exit_code == 0
    assert published(users) == set()
    for line in result.output.splitlines():
        if not line.startswith("-- "):
            users.execute(line)
    again = command(walex, setup_command)
    assert again.output == "-- nothing to do\n"


def test_a_role_without_rights_is_told_who_may(users: Database) -> None:
    users.execute(f"CREATE ROLE \"{users.name}\" LOGIN PASSWORD 'sesame-open'")
    users.execute(f'REVOKE CREATE ON DATABASE "{users.name}" FROM PUBLIC')
    try:
        url = users.server.url(users.name, user=users.name, password="sesame-open")
        walex = application(users, url=url)
        refused = command(walex, setup_command)
        assert refused.exit_code == 78
        assert f"role {users.name!r} may not run CREATE PUBLICATION" in refused.output
        assert "WALEX_ADMIN_URL" in refused.output
        done = command(walex, setup_command, WALEX_ADMIN_URL=users.url)
        assert done.exit_code == 0
        assert published(users) == {"users"}
        for secret in ("sesame-open", users.server.password):
            assert secret not in refused.output + done.output
    finally:
        users.execute(f'DROP ROLE "{users.name}"')


def test_an_administrator_connects_to_the_same_database(users: Database) -> None:
    settings = application(users).settings
    with pytest.raises(ConfigurationError, match="names database 'postgres', but the producer reads"):
        administrator(settings, users.server.url("postgres"))
    with pytest.raises(
        ConfigurationError, match="--url or WALEX_ADMIN_URL: must begin with postgresql://"
    ) as raised:
        administrator(settings, "mysql://root:sesame@localhost/shop")
    assert "sesame" not in str(raised.value)


@pytest.mark.parametrize(("answer", "found"), [("y", "f"), ("n", "d")])
def test_asks_on_a_terminal(users: Database, tmp_path: Path, answer: str, found: str) -> None:
    users.execute("CREATE PUBLICATION events FOR TABLE users")
    (tmp_path / "shop.py").write_text(
        dedent(
            """
            from celery import Celery
            from walex_celery import Filters, WalEx
            app = Celery("shop", broker="memory://")
            walex = WalEx(app, publication="events", subscriptions=["users"])
            @walex.on_update("users", Filters(unwatched_fields=["updated_at"]))
            def updated(events): ...
            """
        )
    )
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "shop", "walex", "setup"],
            cwd=tmp_path,
            env={
                **os.environ,
                "WALEX_URL": users.url,
                "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
            },
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        said = b""

        def asked() -> bool:
            nonlocal said
            said += os.read(ours, 1024)
            return b"Set it? [Y/n]" in said

        wait_until(asked, timeout=30)
        os.write(ours, f"{answer}\n".encode())
        assert process.wait(30) == 0
    finally:
        os.close(ours)
    assert identity(users, "users") == found
