"""The documentation's pages lead somewhere: links, paths of the tree, quoted log lines, and an index with all pages."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
PAGES: Final = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "example_project" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
#: README.md is shown on PyPI too, where links must be absolute; these are of this tree.
OWN: Final = re.compile(
    r"https://(?:github\.com/walex-celery/walex-celery/blob|raw\.githubusercontent\.com/walex-celery/walex-celery)/main/"
)
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
#: In backticks; ``<name>`` stands for a file to be made.
TREE_PATH: Final = re.compile(r"`((?:walex_celery|tests|docs|benchmarks|example_project)/[^`\s:]*)`")
QUOTED: Final = re.compile(r"`([^`]+)`")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = [re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", line) for line in re.findall(r"^#+ (.+)$", text, re.M)]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, heading = OWN.sub("", target).partition("#")
        if path.startswith("https://"):
            continue
        folder = ROOT if OWN.match(target) else page.parent
        found = (folder / path).resolve() if path else page
        assert found.is_relative_to(ROOT), target
        assert found.exists(), target
        assert not heading or heading in headings(found), target


def test_the_readme_has_only_absolute_links() -> None:
    targets = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))

    assert len(targets) > 20
    assert [target for target in targets if not target.startswith("https://")] == []


def test_the_index_lists_every_page() -> None:
    index = DOCS / "README.md"
    listed = {(DOCS / target).resolve() for target in LINK.findall(index.read_text(encoding="utf-8"))}

    assert sorted(name_of(page) for page in {*DOCS.rglob("*.md")} - listed - {index}) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_paths_that_are_named_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # it names what was
    for path in TREE_PATH.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path.partition("<")[0]).exists(), path


def test_the_architecture_names_all_rooms() -> None:
    named = set(TREE_PATH.findall((DOCS / "architecture.md").read_text(encoding="utf-8")))
    package = ROOT / "walex_celery"
    rooms = {f"walex_celery/{room.name}/" for room in package.iterdir() if (room / "__init__.py").exists()}

    assert rooms - named == set()


@cache
def sentences() -> list[str]:
    """The texts in the package's code, with nothing where something is filled in."""
    found = []
    for file in (ROOT / "walex_celery").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%(?:\.\d)?[sdrf]", "", node.value))
    return found


def quoted_lines() -> list[str]:
    found = []
    for page in ("broker", "spool"):
        table = (DOCS / "operations" / f"{page}.md").read_text(encoding="utf-8").partition("| log line |")[2]
        rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")]
        found += [line for row in rows for line in QUOTED.findall(row)]
    return found


@pytest.mark.parametrize("line", quoted_lines())
def test_the_log_lines_that_are_explained_are_logged(line: str) -> None:
    """The longest part between ``...`` is a text of the code, unless it is the broker's own."""
    longest = max(re.split(r"\.\.\.|\d[\d.]* [GMK]iB|Input/output error; ", line), key=len).strip(" :();")
    if longest in ("OOM", "READONLY"):
        return
    assert any(longest in sentence for sentence in sentences()), longest
