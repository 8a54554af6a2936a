"""Builds the compiled part, ``walex_celery/_speedups``, if there is a C compiler; Python does the same without.

``WALEX_NATIVE=0`` in the environment leaves it out.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# pip looks at requires-python last, after it has downloaded each dependency. This file it reads first.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("walex-celery needs Python 3.11 or newer; this is Python " + sys.version.split()[0])

SPEEDUPS = Path("walex_celery", "_speedups")


class CompiledPart(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling's hook: adds the extension modules to a wheel, or to the checkout that an editable wheel points at."""

    #: Where the modules are between compiling and packing. Not the build's own directory: that is the user's dist/.
    _built: TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the wheel is put together."""
        if self.target_name != "wheel":
            return
        speedups = Path(self.root, SPEEDUPS)
        if version == "editable":
            # Those of an earlier build may have been made of other sources.
            for old in speedups.glob("*.so"):
                old.unlink()
        if os.environ.get("WALEX_NATIVE") == "0":
            return
        self._built = TemporaryDirectory(prefix="walex-celery-")
        try:
            modules = _compile(Path(self.root), Path(self._built.name))
        except Exception as error:
            # No compiler, no Python.h, an older Python: it works without.
            self.app.display_warning(f"walex-celery is built without its compiled part: {error}")
            return
        for module in modules:
            if version == "editable":
                shutil.copy2(module, speedups)
            else:
                build_data["force_include"][str(module)] = str(SPEEDUPS / module.name)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled, once it is in the wheel; if packing fails, it goes with this object."""
        if self._built is not None:
            self._built.cleanup()


def _compile(root: Path, into: Path) -> list[Path]:
    """Compile each ``.pyx`` of *root*; the extension modules are left in *into*."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    sources = sorted((root / SPEEDUPS).glob("*.pyx"))
    package = ".".join(SPEEDUPS.parts)
    # Cython finds a module's package by its path relative to the working directory.
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
    return sorted(into.joinpath(SPEEDUPS).iterdir())
