"""README.md and the pages it leads to are true: the quick start runs as printed, the tables are the code's."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

import click
import pytest

from tests.support import Database, wait_until
from walex_celery import cli
from walex_celery.demo.processes import Producer, ShopProcess
from walex_celery.settings.model import WalExSettings

ROOT: Final = Path(__file__).parents[1]
README: Final = (ROOT / "README.md").read_text()
DOCS: Final = ROOT / "docs"


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.M | re.S)


class PlainWorker(ShopProcess):
    """The worker as the quick start runs it, but for its log."""

    name: ClassVar[str] = "worker"
    ready_line: ClassVar[str] = " ready."

    def command(self) -> Sequence[str]:
        """Run it."""
        return [sys.executable, "-m", "celery", "-A", "shop", "worker", "--loglevel=INFO"]


def test_the_quick_start_works_as_printed(database: Database, redis_url: str, tmp_path: Path) -> None:
    schema, changes = (block for block in blocks("sql") if "users" in block)
    setup = (DOCS / "operations" / "setup.md").read_text()
    role = next(block for block in blocks("sql", setup) if "CREATE ROLE" in block)
    database.execute(schema)
    database.execute(role)
    url = database.server.url(database.name, user="walex", password="secret")
    code = blocks("python")[0]
    assert "postgresql://localhost/shop" in code
    assert "redis://localhost:6379/0" in code
    code = code.replace("postgresql://localhost/shop", url).replace("redis://localhost:6379/0", redis_url)
    (tmp_path / "shop.py").write_text(code)

    try:
        with Producer(tmp_path, {}) as producer, PlainWorker(tmp_path, {}) as worker:
            database.execute(changes)
            wait_until(
                lambda: "changed: " in worker.log() and "Welcome" in worker.log(), 20, "both tasks have run"
            )
            assert "1 new users" in producer.log()
            assert "Welcome, Ada " in worker.log()
            changed = "{'id': 1} {'name': Change(new_value='Ada Lovelace', old_value='Ada')"
            assert changed in worker.log()
    finally:
        database.execute("SELECT pg_drop_replication_slot('shop_walex')")
        database.execute("DROP ROLE walex")


@pytest.mark.parametrize("page", ["handlers.md", "middleware.md"])
def test_the_python_of_the_other_pages_runs(page: str) -> None:
    found = blocks("python", (DOCS / page).read_text())
    assert found
    for block in found:
        exec(compile(block, page, "exec"), {"__name__": "readme"})


def test_the_settings_table_is_the_settings() -> None:
    page = (DOCS / "settings.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| `(WALEX_\w+)` \|", page, re.M))
    assert documented == {name: f"WALEX_{name.upper()}" for name in WalExSettings.model_fields}
    defaults = dict(re.findall(r"^\| `(\w+)` \| `WALEX_\w+` \| `([^`]+)` \|", page, re.M))
    for name, default in defaults.items():
        assert str(WalExSettings.model_fields[name].default).lower() == default


def test_the_exit_codes_are_the_commands() -> None:
    page = (DOCS / "operations" / "producer.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)}
    assert documented == {value for name, value in vars(cli).items() if name.startswith("EXIT_")}


def test_the_commands_are_the_commands() -> None:
    table = README.partition("## Commands")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([\w-]+)", row)}
    assert documented == set(cli.walex.list_commands(click.Context(cli.walex)))
