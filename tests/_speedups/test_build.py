"""The compiled part is built if it can be, can be left out, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

from walex_celery._speedups import speedups

ROOT = Path(__file__).parents[2]

_SAY = (
    "from walex_celery._speedups import speedups; from walex_celery.pipeline.assembler import new_assembler;"
    "print(speedups.compiled, speedups.absence, new_assembler.__mro__)"
)


def can_compile() -> bool:
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    return shutil.which(compiler) is not None and Path(sysconfig.get_paths()["include"], "Python.h").exists()


def test_it_is_built_where_there_is_a_compiler() -> None:
    if os.environ.get("WALEX_NATIVE") != "0" and can_compile():
        assert speedups.compiled, speedups.absence


@pytest.mark.parametrize(
    ("chosen", "expected"), [("0", "False WALEX_NATIVE=0 leaves it out"), ("1", str(speedups.compiled))]
)
def test_it_can_be_left_out(chosen: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SAY],
        env={**os.environ, "WALEX_NATIVE": chosen},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith(
        expected if os.environ.get("WALEX_NATIVE") != "0" or chosen == "0" else "True"
    )
    assert ("Feeding" in done.stdout) is done.stdout.startswith("True")


# Builds, as "python -m build" and "pip wheel" do them, but in this environment.

needs_builder = pytest.mark.skipif(
    not all(find_spec(name) for name in ("hatchling", "Cython", "setuptools")),
    reason="hatchling, Cython and setuptools are not installed (pip install 'walex-celery[dev]')",
)


def build(target: str, into: Path, **environment: str) -> set[str]:
    """Build a wheel or an sdist of the checkout into a folder, and return what is there afterwards."""
    before = modules()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", into],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(into.parent), **environment},
        check=True,
        capture_output=True,
    )
    assert modules() == before, "the checkout's own modules are those of its installation"
    assert [path.name for path in into.parent.iterdir()] == [into.name], "a temporary folder is left"
    return {path.name for path in into.iterdir()}


def modules() -> dict[Path, int]:
    speedups = ROOT / "walex_celery" / "_speedups"
    return {path: path.stat().st_mtime_ns for path in speedups.iterdir() if path.suffix in (".so", ".c")}


@needs_builder
def test_a_wheel_holds_the_modules_and_its_folder_nothing_else(tmp_path: Path) -> None:
    (wheel,) = build("wheel", tmp_path / "dist", WALEX_NATIVE="1")

    with ZipFile(tmp_path / "dist" / wheel) as archive:
        built = {Path(name).name.split(".")[0] for name in archive.namelist() if name.endswith(".so")}
    sources = {path.stem for path in (ROOT / "walex_celery" / "_speedups").glob("*.pyx")}
    assert built == (sources if can_compile() else set())
    assert wheel.endswith("-none-any.whl") is not can_compile()


@needs_builder
@pytest.mark.parametrize(
    "environment",
    [{"WALEX_NATIVE": "0"}, {"WALEX_NATIVE": "1", "CC": "false"}],
    ids=["left out", "compiler fails"],
)
def test_a_wheel_without_the_modules_is_for_any_platform(tmp_path: Path, environment: dict[str, str]) -> None:
    (wheel,) = build("wheel", tmp_path / "dist", **environment)

    assert wheel.endswith("-py3-none-any.whl")
    with ZipFile(tmp_path / "dist" / wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]


@needs_builder
def test_an_sdist_holds_the_sources_and_its_folder_nothing_else(tmp_path: Path) -> None:
    (sdist,) = build("sdist", tmp_path / "dist")

    with tarfile.open(tmp_path / "dist" / sdist) as archive:
        packed = {Path(name).name for name in archive.getnames() if "/walex_celery/_speedups/" in name}
    tracked = {path.name for path in (ROOT / "walex_celery" / "_speedups").iterdir() if path.is_file()}
    assert packed == {name for name in tracked if not name.endswith(".so")}
