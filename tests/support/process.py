"""A producer in a process of its own, as users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.support import Database

HERE = Path(__file__).parent


@contextmanager
def producer_process(
    database: Database,
    broker_url: str,
    log: Path,
    *options: str,
    url: str | None = None,
    failpoints: object = "",
) -> Iterator[subprocess.Popen[bytes]]:
    """``celery -A crash_app walex producer``, killed at the end if it still runs; *failpoints*: those to arm."""
    with (
        log.open("ab") as output,
        commanding(
            database, broker_url, "producer", *options, url=url, output=output, failpoints=failpoints
        ) as process,
    ):
        yield process


@contextmanager
def commanding(
    database: Database,
    broker_url: str,
    *arguments: str,
    url: str | None = None,
    output: IO[bytes] | None = None,
    failpoints: object = "",
) -> Iterator[subprocess.Popen[bytes]]:
    """``celery -A crash_app walex *arguments*``, killed at the end; without *output* its ``stdout`` can be read."""
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "crash_app", "walex", *arguments],
        env=os.environ
        | {
            "BROKER_URL": broker_url,
            "WALEX_URL": url or database.url,
            "WALEX_FAILPOINTS": str(failpoints),
            "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
        },
        stdout=subprocess.PIPE if output is None else output,
        stderr=output,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
