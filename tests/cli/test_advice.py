"""What commands print can be run as it stands; a mistake in the user's module is one line of it (promise 8)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import Database
from tests.support.project import Project

SECONDS = 60

#: What is left for the reader to fill in: <module>, <app> and the like.
PLACEHOLDER = re.compile(r"<[a-z_ ]+>|celery -A \.\.\.")

HEAD = """
from celery import Celery
from walex_celery import Filters, WalEx

app = Celery("shop")
"""
WALEX = 'walex = WalEx(app, publication="events", subscriptions=["users"], durable_slot=True)\n'


class Shop:
    """A module of a user's, ``my_shop.py``, and commands for it."""

    def __init__(self, folder: Path, database: Database, broker_url: str) -> None:
        self.project = Project(folder)
        self.environment = {
            "CELERY_BROKER_URL": broker_url,
            "WALEX_URL": database.url,
            "WALEX_SLOT_NAME": database.name,
        }
        database.execute("CREATE TABLE users (id int PRIMARY KEY)")

    def write(self, text: str, **files: str) -> None:
        self.project.write(
            {"my_shop.py": HEAD + text, **{f"{name}.py": code for name, code in files.items()}}
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """The exit code and the output of ``celery -A my_shop walex *arguments``."""
        arguments = ("-A", "my_shop", "walex", *arguments)
        with self.project.command(*arguments, **self.environment, **environment) as process:
            code = process.wait(SECONDS)
        return code, self.project.output(*arguments)


@pytest.fixture
def shop(tmp_path: Path, database: Database, redis_url: str) -> Shop:
    return Shop(tmp_path, database, redis_url)


MISTAKES = {
    "functions in the place of filters": (
        WALEX + '\n\n@walex.on_insert("users", ["welcome"])\ndef inserted(events): ...\n',
        "on_insert in my_shop, line 9: the second argument is filters, not a list; functions come third",
    ),
    "no table": (
        WALEX + "\n\n@walex.on_insert(17)\ndef inserted(events): ...\n",
        "on_insert in my_shop, line 9: 17 names no table",
    ),
    "no such policy": (
        WALEX + '\n\n@walex.on_insert("users", on_error="hallt")\ndef inserted(events): ...\n',
        "on_insert in my_shop, line 9: on_error: 'hallt' is no policy",
    ),
    "no such setting": (
        'walex = WalEx(app, publiction="events")\n',
        "WalEx() in my_shop, line 6: there is no setting 'publiction'",
    ),
    "the same name twice": (
        WALEX + WALEX,
        "WalEx() in my_shop, line 7: this Celery application has a WalEx named 'shop' already",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_user_s_module_is_one_finding(shop: Shop, mistake: str) -> None:
    """Of doctor, and one error of producer and setup, before anything is touched."""
    text, sentence = MISTAKES[mistake]
    shop.write(text)

    doctor, examined = shop.run("doctor")
    assert doctor == 2
    assert examined.startswith(f"✗ {sentence}"), examined
    assert "✗ shop: 1 error, 0 warnings, 0 worth knowing," in examined

    for command in ("producer", "setup"):
        code, said = shop.run(command)
        assert code == 78, said
        assert said.count(sentence) == 1, said
        assert "Traceback" not in said, said
    status, said = shop.run("status")
    assert status == 69, said  # no producer answered
    for output in (examined, said):
        assert "Traceback" not in output, output
        assert not PLACEHOLDER.search(output), output


def test_a_module_that_raises_is_named_with_its_line(shop: Shop) -> None:
    shop.write(WALEX, handlers="import os\n\n1 / 0\n")

    doctor, said = shop.run("doctor", WALEX_MODULES="handlers")

    assert doctor == 2
    assert "✗ this failed: in handlers, line 3: ZeroDivisionError: division by zero  [modules]" in said
    assert "its traceback: celery -A my_shop walex setup --dry-run" in said


def test_no_advice_has_a_placeholder(shop: Shop) -> None:
    """Of a database in which nothing is set up, and an application without handlers or with dead letters nowhere."""
    shop.write(WALEX)
    runs = [["doctor"], ["producer"], ["status"], ["config", "replace", "password", "x"]]
    said = [shop.run(*arguments)[1] for arguments in runs]
    shop.write(WALEX + '\n\n@walex.on_insert("users", on_error="dead_letter")\ndef inserted(events): ...\n')
    code, output = shop.run("setup")
    assert code == 0, output
    said += [shop.run(name, WALEX_DEAD_LETTERS="postgres")[1] for name in ("doctor", "dead-letters")]

    for output in said:
        assert not PLACEHOLDER.search(output), output
    assert "celery -A my_shop walex producer" in said[2]
    assert "celery -A my_shop walex control reload" in said[3]
