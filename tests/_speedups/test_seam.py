"""One module chooses between the compiled part and Python; no other module sees more than its choice."""

from __future__ import annotations

import ast
from pathlib import Path

import walex_celery

PACKAGE = Path(walex_celery.__file__).parent
SPEEDUPS = "walex_celery._speedups"
#: What the rest of the package may import: the chooser, and the contract for annotations.
OPEN = {SPEEDUPS, f"{SPEEDUPS}.contract"}


def imported(path: Path) -> set[str]:
    """The modules that a file imports, by name; ``from package import name`` may name a module as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_only_the_chooser_and_the_contract_are_imported_from_outside() -> None:
    halves = {f"{SPEEDUPS}.{path.stem.split('.')[0]}" for path in (PACKAGE / "_speedups").iterdir()} - OPEN
    assert f"{SPEEDUPS}.feeding" in halves

    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "_speedups":
            assert not imported(path) & halves, path
