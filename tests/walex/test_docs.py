"""docs/walex.md is true: the tests that it names exist, its SQL and its Python run, its application works."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import Database, wait_until
from tests.support.project import Project

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "walex.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("## Feature by feature")[2].partition("\n## ")[0]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ")][2:]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
PYTHON = [text for language, text in BLOCKS if language == "python"]
FILES = {found[1]: text for text in PYTHON if (found := re.match(r"# (my_app/\S+\.py)\n", text))}


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip() or row.split("|")[2].strip())
def test_each_feature_names_tests_that_exist(row: str) -> None:
    *_, named, _ = row.split("|")
    found = NAMED.findall(named)

    assert found
    for path, name in found:
        assert name in functions_of(path)


def test_the_text_names_tests_that_exist() -> None:
    assert all(name in functions_of(path) for path, name in NAMED.findall(PAGE))


def test_no_chapter_is_left_out() -> None:
    """Every test of the chapters stands in the page, but those of corners that no user asks for."""
    named = {name for _, name in NAMED.findall(PAGE)}
    chapters = ["config", "event", "event_module", "filters", "transaction_filter", "functions", "slots"]
    found = {name for chapter in chapters for name in functions_of(f"tests/walex/test_{chapter}.py")}
    corners = {"test_a_malformed_pattern_matches_nothing"}

    assert {name for name in found if name.startswith("test_")} - named == corners


def test_its_sql_runs(todos: Database) -> None:
    todos.execute('DROP PUBLICATION events; ALTER TABLE "user" ADD active boolean')
    statements = [
        statement
        for language, text in BLOCKS
        if language == "sql"
        for statement in text.split(";")
        if statement.strip() and "ALTER SYSTEM" not in statement
    ]

    connection = todos.connect()
    connection.autocommit = False
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
            connection.rollback()
    connection.close()

    assert len(statements) == 5


def test_its_python_runs() -> None:
    """The blocks that are no files of the application, one after the other; the event's is a test of its own."""
    blocks = [text for text in PYTHON if text not in FILES.values() and not text.startswith("# <Event")]

    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/walex.md", "exec"), namespace)

    assert len(blocks) == 6


def test_the_application_of_this_page_runs(todos: Database, broker_url: str, project: Project) -> None:
    project.write(FILES)
    worker = ("-A", "my_app", "worker", "--pool", "solo")
    producer = ("-A", "my_app", "walex", "producer")

    with (
        project.command(*worker, CELERY_BROKER_URL=broker_url),
        project.command(*producer, CELERY_BROKER_URL=broker_url, WALEX_URL=todos.url) as process,
    ):
        wait_until(lambda: "streaming from" in project.output(*producer), 20)
        todos.execute('INSERT INTO "user" VALUES (1, \'Chase\'); UPDATE "user" SET todos_count = 1')
        todos.execute('UPDATE "user" SET name = \'Chase Pursley\'; DELETE FROM "user"')
        todos.execute("INSERT INTO todo VALUES (7)")
        wanted = [
            "welcome, Chase",
            "added to the CRM: Chase",
            "cleared the cache of {'id': 1}",
            "reindexed insert {'id': 7}",
        ]
        for line in wanted:
            wait_until(lambda line=line: line in project.output(*worker), 20)  # type: ignore[misc]
        process.terminate()
        assert process.wait(20) == 0

    told = [re.sub(r" lsn=\S+>", ">", line) for line in project.output(*producer).splitlines()]
    assert [line for line in told if line.startswith(("on_", "any "))] == [
        "any subscribed event: [<Event insert user id=1>, <Event update user id=1>]",
        "on_event: [<Event insert user id=1>, <Event update user id=1>]",
        "on_insert: [<Event insert user id=1>]",
        "any subscribed event: [<Event update user id=1>, <Event delete user id=1>]",
        "on_event: [<Event update user id=1>, <Event delete user id=1>]",
        "on_update: [<Event update user id=1>]",
        "on_delete: [<Event delete user id=1>]",
        "any subscribed event: [<Event insert todo id=7>]",
    ]
