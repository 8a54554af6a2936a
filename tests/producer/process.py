"""A producer in a process of its own, as users run it, and what Postgres says of its slot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import Database
from walex_celery.lsn import Lsn

HERE = Path(__file__).parent


@contextmanager
def producer_process(
    database: Database, broker_url: str, log: Path, *options: str, url: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """``celery -A crash_app walex producer``, killed at the end if it still runs."""
    environment = os.environ | {
        "BROKER_URL": broker_url,
        "WALEX_URL": url or database.url,
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "crash_app", "walex", "producer", *options],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def active(database: Database) -> bool:
    return bool(
        database.execute("SELECT 1 FROM pg_replication_slots WHERE active AND database = current_database()")
    )


def confirmed(database: Database) -> Lsn:
    ((lsn,),) = database.execute(
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()"
    )
    return Lsn.parse(lsn)


def written(database: Database) -> Lsn:
    """Where the next WAL record will begin."""
    ((lsn,),) = database.execute("SELECT pg_current_wal_insert_lsn()")
    return Lsn.parse(lsn)
