"""What the tests of the spool share: logs in folders, and messages to put in them."""

from __future__ import annotations

from pathlib import Path

from tests import messages as m
from walex_celery import StreamMessage
from walex_celery.sources.spool.log import Log
from walex_celery.sources.spool.reader import Reader

CLUSTER, SLOT = 7_000_000_000_000_000_001, "shop_walex"


def open_log(
    folder: Path, *, cluster: int = CLUSTER, timeline: int = 1, slot: str = SLOT, segment_bytes: int = 1 << 20
) -> Log:
    log = Log(folder, system_identifier=cluster, timeline=timeline, slot=slot, segment_bytes=segment_bytes)
    log.follow(timeline)
    return log


def of(*payloads: bytes) -> list[StreamMessage]:
    return [StreamMessage(payload, number) for number, payload in enumerate(payloads)]


def transaction(end_lsn: int, *rows: bytes, describes: bytes | None = None) -> list[StreamMessage]:
    """Begin, Relation if any, inserts and Commit; the commit record begins 8 bytes before its end."""
    described = [] if describes is None else [describes]
    inserts = [m.insert(1, row) for row in rows or (b"1",)]
    return of(m.begin(end_lsn - 8), *described, *inserts, m.commit(end_lsn - 8, end_lsn))


def read_all(log: Log) -> list[StreamMessage]:
    """Everything that is not consumed, with what describes it first."""
    reader = Reader(log)
    found: list[StreamMessage] = []
    while messages := reader.read():
        found += messages
    reader.close()
    return found


def consume_to(log: Log, end_lsn: int) -> None:
    """Read everything, and have it done up to *end_lsn*."""
    reader = Reader(log)
    while reader.read():
        pass
    reader.acknowledge(end_lsn, now=True)
    reader.close()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))
