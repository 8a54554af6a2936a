"""A user's project in a folder, and commands run in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent


@dataclass(frozen=True)
class Project:
    """A folder with a user's package, and the commands run in it."""

    folder: Path

    def write(self, files: Mapping[str, str]) -> None:
        """Write files by their path in the folder; their text may be indented as the test's is."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))

    @contextmanager
    def command(self, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """``celery *arguments`` in a process of its own, ended by SIGTERM; see :meth:`output`."""
        paths = os.pathsep.join([str(self.folder), *filter(None, sys.path)])
        with self._log(arguments).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", *arguments],
                cwd=self.folder,
                env={**os.environ, **environment, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise

    def output(self, *arguments: str) -> str:
        """What a command has written so far."""
        return self._log(arguments).read_text()

    def _log(self, arguments: tuple[str, ...]) -> Path:
        return self.folder / ("_".join(arguments).replace("/", "_") + ".log")
