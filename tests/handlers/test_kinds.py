"""The kinds of events: one table, which all else reads."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final, get_args

import pytest
from celery import Celery

import walex_celery
from walex_celery import WalEx
from walex_celery.events.event import EventType
from walex_celery.handlers.kinds import DECORATORS, KINDS, OF_TABLES, ON_EVENT, PUBLISHED

ROOT: Final = Path(walex_celery.__file__).parent

#: The modules that may name a kind: the table, the type, what makes or is an event of that kind, and public functions
#: that have it in their name.
MAY_NAME_A_KIND: Final = {
    "events/event.py",
    "events/row_event.py",
    "filters.py",
    "handlers/kinds.py",
    "pipeline/assembler.py",
    "pipeline/table_plan.py",
}


def test_type_checkers_know_all_of_them() -> None:
    assert get_args(EventType) == tuple(KINDS)


def test_on_event_sees_what_a_publication_sends() -> None:
    assert DECORATORS[ON_EVENT] == PUBLISHED
    assert set(PUBLISHED) <= set(OF_TABLES)


@pytest.mark.parametrize("decorator", DECORATORS)
def test_each_has_a_decorator(decorator: str) -> None:
    app = Celery("shop", broker="memory://", set_as_current=False)
    walex = WalEx(app, publication="events")

    getattr(walex, decorator)("users")(lambda events: None)

    (handler,) = walex.handlers
    assert handler.decorator == decorator
    app.close()


def test_no_other_module_names_them() -> None:
    """A new kind must not be looked for in ten files."""
    # "message" is what many other things are called too.
    names = {*KINDS, *DECORATORS} - {"message"}
    found = {
        file.relative_to(ROOT).as_posix()
        for file in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    }

    assert found == MAY_NAME_A_KIND
