"""pg_recvlogical to /dev/null: what Postgres can send and C can read, doing nothing with it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from benchmarks.backlog import PUBLICATION
from benchmarks.job import Job, Outcome
from walex_celery.postgres.lsn import Lsn
from walex_celery.testing.servers import Postgres


def drain_by_recvlogical(postgres: Postgres, database: str, job: Job) -> Outcome:
    """Drain the slot; the clock runs from its line "streaming initiated" to its end."""
    process = subprocess.Popen(
        [
            str(postgres.bin_dir / "pg_recvlogical"),
            *("--host", "127.0.0.1", "--port", str(postgres.port), "--username", postgres.username),
            *("--dbname", database),
            *("--slot", job.slot, "--start", "--file", "/dev/null", "--no-loop", "--verbose"),
            *("--endpos", str(Lsn(job.end))),
            *("-o", "proto_version=1", "-o", f"publication_names={PUBLICATION}", "-o", "messages=true"),
        ],
        env={**os.environ, "PGPASSWORD": postgres.password, "LC_ALL": "C"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said, began = "", 0.0
    for line in process.stderr:
        if "streaming initiated" in line:
            began = time.perf_counter()
            break
        said += line
    # It allocates nothing while running: its memory now is its memory at the end.
    peak = _peak_bytes(process.pid)
    said += process.stderr.read()
    process.stderr.close()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not began:
        raise RuntimeError(f"pg_recvlogical ended with {process.returncode}:\n{said}")
    return Outcome(job.events, seconds, usage.ru_utime + usage.ru_stime, peak)


def _peak_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0].split()[1]) * 1024 if found else 0
