"""Builds the compiled part, ``walex_celery/_speedups``, where there is a C compiler; without one all is plain Python.

``WALEX_NATIVE=0`` in the environment leaves it out.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("walex_celery", "_speedups")


class CompiledPart(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's hook: adds the extension modules to a wheel, and to the checkout that an editable one points at."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel is put together."""
        if self.target_name != "wheel":
            return
        native = Path(self.root, NATIVE)
        if version == "editable":
            # What an earlier build left there would be of other sources.
            for old in native.glob("*.so"):
                old.unlink()
        if os.environ.get("WALEX_NATIVE") == "0":
            return
        built = Path(self.directory, "native")
        shutil.rmtree(built, ignore_errors=True)
        try:
            modules = _compile(Path(self.root), built)
        except Exception as error:
            # No compiler, no Python.h, an older Python: it works without.
            self.app.display_warning(f"walex-celery is built without its compiled part: {error}")
            return
        for module in modules:
            if version == "editable":
                shutil.copy2(module, native)
            else:
                build_data["force_include"][str(module)] = str(NATIVE / module.name)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _compile(root: Path, into: Path) -> list[Path]:
    """Compile each ``.pyx`` of *root*; the extension modules are left in *into*."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    sources = sorted((root / NATIVE).glob("*.pyx"))
    package = ".".join(NATIVE.parts)
    # Cython finds a module's package by its path, so that it has to be where it is.
    here = Path.cwd()
    os.chdir(root)
    try:
        with TemporaryDirectory() as temporary:
            extensions = cythonize(
                [
                    Extension(
                        f"{package}.{source.stem}",
                        [str(source.relative_to(root))],
                        extra_compile_args=["-g0"],  # debug symbols are half of it
                    )
                    for source in sources
                ],
                build_dir=temporary,
                quiet=True,
            )
            command = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
            command.build_lib = str(into)
            command.build_temp = temporary
            command.ensure_finalized()
            command.run()
    finally:
        os.chdir(here)
    return sorted(into.joinpath(NATIVE).iterdir())
