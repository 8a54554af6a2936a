"""The compiled part is built where it can be, and can be left out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from walex_celery import _speedups as native

_SAY = (
    "from walex_celery._speedups import COMPILED, absence, compiled;"
    "print(COMPILED, absence, compiled.Assembler.__mro__)"
)


def test_it_is_built_where_there_is_a_compiler() -> None:
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if os.environ.get("WALEX_NATIVE") != "0" and shutil.which(compiler) and header.exists():
        assert native.COMPILED, native.absence


@pytest.mark.parametrize(
    ("chosen", "expected"), [("0", "False WALEX_NATIVE=0 leaves it out"), ("1", str(native.COMPILED))]
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
