"""The borders between rooms (docs/architecture.md), and the size of modules and classes, read off the sources.

A ``TYPE_CHECKING`` import is an import too: a room does not even name what is above it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

import walex_celery

ROOT: Final = Path(walex_celery.__file__).parent

#: What may stand in the package itself, beside the rooms. ``filters`` is a public path.
LOOSE: Final = {"__init__.py", "app.py", "errors.py", "filters.py", "py.typed"}

#: Each room, and what its modules may import besides their own room's: rooms, or single modules of them.
#: From the bottom up; a room never imports one below it in this list, except for the two marked.
BORDERS: Final = {
    "errors": "",
    "_failpoints": "",
    "_files": "",
    "_invocation": "",
    "_speedups": "",
    # Marked: an event has positions in the WAL, and pgoutput makes the cells that an event's row is made of.
    "postgres": "_speedups _failpoints _invocation errors events.cells events.values",
    "events": "_speedups errors postgres.lsn postgres.pgoutput postgres.timeline",
    "filters": "errors events",
    "telemetry": "errors events filters postgres",
    "retry": "errors telemetry",
    "handlers": "errors events filters telemetry",
    "settings": "errors filters handlers.policies postgres.parameters",
    "sources": "_failpoints _files errors events filters postgres retry telemetry",
    "broker": "_failpoints _speedups errors events postgres retry telemetry",
    "dead_letters": "_files _invocation errors events filters postgres telemetry",
    "database": "_invocation dead_letters errors events filters handlers postgres settings",
    "app": "errors filters handlers settings",
    "pipeline": (
        "_failpoints _invocation _speedups app broker database dead_letters errors events filters handlers postgres "
        "retry settings sources telemetry"
    ),
    "operations": (
        "_invocation _speedups app broker database dead_letters errors events filters handlers pipeline postgres "
        "settings sources telemetry"
    ),
    "testing": "_files app errors events handlers",
    "demo": "errors events operations testing walex_celery",
    "cli": "_invocation app database dead_letters demo errors events operations pipeline postgres settings telemetry",
}

MAX_LINES: Final = 500
MAX_IMPORTS: Final = 20
MAX_ATTRIBUTES: Final = 18

#: Only this module imports the compiled extension modules.
COMPILED: Final = "_speedups.compiled"


@cache
def modules() -> dict[str, ast.Module]:
    """Every module's tree, by its name without the package's; that of the package itself is empty."""
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(file.read_text())
    return found


def extensions() -> set[str]:
    return {f"_speedups.{file.stem}" for file in (ROOT / "_speedups").glob("*.pyx")}


def imports_of(name: str) -> set[str]:
    """The modules of the package that *name* imports, named as in :func:`modules`, wherever in it the import is."""
    known = modules().keys() | extensions()
    found = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: a relative import, which this test does not follow"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = inner.removeprefix("walex_celery.") in known
                found.add(inner if is_module else str(node.module))
    own = {module for module in found if module.partition(".")[0] == "walex_celery"}
    return {module.removeprefix("walex_celery").removeprefix(".") for module in own} - {name}


def is_allowed(imported: str, allowed: list[str]) -> bool:
    return any(imported == entry or imported.startswith(f"{entry}.") for entry in allowed)


def crossings() -> Iterator[str]:
    for name in modules():
        room = name.partition(".")[0]
        if not room:
            continue  # the public names come from everywhere
        allowed = [room, *BORDERS.get(room, "").split()]
        for imported in sorted(imports_of(name)):
            if not is_allowed(imported or "walex_celery", allowed):
                yield f"{name} imports {imported or 'walex_celery'}"


def strays() -> Iterator[str]:
    """What stands in the package without a place in the design."""
    for entry in ROOT.iterdir():
        if entry.is_dir():
            if entry.name not in BORDERS and entry.name != "__pycache__":
                yield f"room {entry.name} has no borders"
        elif entry.name not in LOOSE:
            yield f"{entry.name} stands loose"


def long_modules() -> Iterator[str]:
    for file in [*ROOT.rglob("*.py"), *ROOT.rglob("*.pyx")]:
        if len(file.read_text().splitlines()) > MAX_LINES:
            yield f"{file.relative_to(ROOT)} is too long"


def importers_of_much() -> Iterator[str]:
    for name in modules():
        if name and len(imports_of(name)) > MAX_IMPORTS:
            yield f"{name} imports too many modules"


def attributes_of(definition: ast.ClassDef) -> set[str]:
    """What a class keeps on self; nothing for a record, which assigns nothing there: its fields are data."""
    kept = {
        node.attr
        for node in ast.walk(definition)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    declared = set()
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            declared.add(node.target.id)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            kept |= set(ast.literal_eval(node.value))
    return kept | declared if kept else set()


def large_classes() -> Iterator[str]:
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and len(attributes_of(node)) > MAX_ATTRIBUTES:
                yield f"{name}: {node.name} has too many attributes"


def importers_of_extensions() -> Iterator[str]:
    if not imports_of(COMPILED) & extensions():
        yield f"{COMPILED} imports no extension module"
    for name in modules():
        if name != COMPILED:
            for imported in sorted(imports_of(name) & extensions()):
                yield f"{name} imports the compiled {imported}"


RULES: Final = (crossings, strays, long_modules, importers_of_much, large_classes, importers_of_extensions)


@pytest.mark.parametrize("rule", RULES)
def test_the_tree_is_as_designed(rule: object) -> None:
    assert callable(rule)
    assert sorted(set(rule())) == []


def test_the_borders_name_what_exists() -> None:
    named = {entry for allowed in BORDERS.values() for entry in allowed.split()} - {"walex_celery"}

    assert sorted((named | BORDERS.keys()) - modules().keys()) == []
