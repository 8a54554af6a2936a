"""README.md is true: its quick start runs as printed, its tables are the code's."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from tests.support import Database, wait_until
from walex_celery import cli
from walex_celery.demo.processes import Producer, ShopProcess
from walex_celery.settings.model import WalExSettings

ROOT: Final = Path(__file__).parents[1]
README: Final = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", README, re.M | re.S)


class PlainWorker(ShopProcess):
    """The worker as the quick start runs it, but for its log."""

    name: ClassVar[str] = "worker"
    ready_line: ClassVar[str] = " ready."

    def command(self) -> Sequence[str]:
        """Run it."""
        return [sys.executable, "-m", "celery", "-A", "shop", "worker", "--loglevel=INFO"]


def test_the_quick_start_works_as_printed(database: Database, redis_url: str, tmp_path: Path) -> None:
    schema, changes = (block for block in blocks("sql") if "users" in block)
    role = next(block for block in blocks("sql") if "CREATE ROLE" in block)
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
            change = "{'id': 1} {'name': Change(new_value='Ada Lovelace', old_value='Ada')"
            assert change in worker.log()
    finally:
        database.execute("SELECT pg_drop_replication_slot('shop_walex')")
        database.execute("DROP ROLE walex")


def test_the_other_python_blocks_run() -> None:
    for block in blocks("python")[1:]:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_the_settings_table_is_the_settings() -> None:
    documented = dict(re.findall(r"^\| `(\w+)` \| `(WALEX_\w+)` \|", README, re.M))
    assert documented == {name: f"WALEX_{name.upper()}" for name in WalExSettings.model_fields}
    defaults = dict(re.findall(r"^\| `(\w+)` \| `WALEX_\w+` \| `([^`]+)` \|", README, re.M))
    for name, default in defaults.items():
        assert str(WalExSettings.model_fields[name].default).lower() == default


def test_the_exit_codes_are_the_commands() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.M)}
    assert codes == {value for name, value in vars(cli).items() if name.startswith("EXIT_")}


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith("https://"):
            path, _, heading = target.partition("#")
            assert (ROOT / path).exists(), target
            assert not heading or heading in _headings(ROOT / path), target


def _headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    }
