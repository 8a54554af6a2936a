"""README.md and the pages it leads to are true: the quick start runs as printed, the tables are the code's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

import click
import pytest

from tests.support import Database, wait_until
from tests.support.debian import DebianPostgres, Shell
from walex_celery import cli
from walex_celery.demo.processes import ShopProcess
from walex_celery.postgres.connection import connect
from walex_celery.postgres.server import may_replicate
from walex_celery.settings.model import WalExSettings, load_settings

ROOT: Final = Path(__file__).parents[1]
README: Final = (ROOT / "README.md").read_text()
DOCS: Final = ROOT / "docs"


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.M | re.S)


class Printed(ShopProcess):
    """A line of the quick start that runs on.

    Args:
        shell: whose commands and variables it has.
        line: as printed.
        ready_line: what it writes when it is ready.
    """

    name: ClassVar[str] = "printed"

    def __init__(self, shell: Shell, line: str, ready_line: str) -> None:
        super().__init__(shell.folder, shell.environment)
        self._line = line
        self._ready_line = ready_line

    def ready(self) -> bool:
        """Whether its output shows that it is ready."""
        return self._ready_line in self.log()

    def command(self) -> Sequence[str]:
        """Run it."""
        return ["bash", "-c", f"exec {self._line}"]


def test_the_quick_start_works_as_printed_on_a_default_debian_server(redis_url: str, tmp_path: Path) -> None:
    """But for the ports: of a server with peer authentication, no role, and ``wal_level = replica``."""
    with DebianPostgres() as server:
        quick_start = README.partition("## Quick start")[2].partition("## What you write")[0]
        assert quick_start.count("@localhost/shop") == 1
        assert quick_start.count("redis://localhost:6379/0") == 1
        quick_start = quick_start.replace("@localhost/shop", f"@localhost:{server.port}/shop")
        quick_start = quick_start.replace("redis://localhost:6379/0", redis_url)
        prepare, run = blocks("sh", quick_start)
        (code,) = blocks("python", quick_start)
        (changes,) = blocks("sql", quick_start)
        setup, worker_line, producer_line = run.splitlines()
        shell = Shell(tmp_path, server)

        shell.run(prepare)
        (tmp_path / "shop.py").write_text(code)
        assert "-- done" in shell.run(setup)
        with (
            Printed(shell, worker_line, " ready.") as worker,
            Printed(shell, producer_line, "streaming from") as producer,
        ):
            shell.run("psql $WALEX_URL", stdin=changes)
            wait_until(
                lambda: "changed: " in worker.log() and "Welcome" in worker.log(), 20, "both tasks have run"
            )
            assert "1 new users" in producer.log()
            assert "Welcome, Ada " in worker.log()
            changed = "{'id': 1} {'name': Change(new_value='Ada Lovelace', old_value='Ada')"
            assert changed in worker.log()


def test_the_password_may_stand_in_a_file_of_libpq_s(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the quick start says of PGPASSFILE."""
    server = database.server
    file = tmp_path / "pgpass"
    file.touch(mode=0o600)
    file.write_text(f"127.0.0.1:{server.port}:*:{server.username}:{server.password}\n")
    monkeypatch.setenv("PGPASSFILE", str(file))
    url = f"postgresql://{server.username}@127.0.0.1:{server.port}/{database.name}"
    settings = load_settings({"name": "shop", "publication": "events", "url": url}, {})

    connect(settings.connection_settings()).close()


def test_the_role_of_the_setup_page_may_replicate(database: Database) -> None:
    setup = (DOCS / "operations" / "setup.md").read_text()
    (role,) = (block for block in blocks("sql", setup) if "CREATE ROLE" in block)
    database.execute(role)
    try:
        url = database.server.url(database.name, user="walex", password="secret")
        settings = load_settings({"name": "shop", "publication": "events", "url": url}, {})
        connection = connect(settings.connection_settings())
        assert may_replicate(connection, settings.connection_settings())
        connection.close()
    finally:
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
