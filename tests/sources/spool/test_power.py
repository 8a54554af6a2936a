"""The host loses its power: what was acknowledged to Postgres is on the disk, and in order there (promise 1)."""

from __future__ import annotations

import random
import shutil
import threading
from pathlib import Path

import pytest
from celery import Celery

from tests.sources.spool.disk import Disk, watching
from tests.sources.spool.support import open_log, read_all, segments, transaction
from tests.support import Database, shop, wait_until
from tests.support.producers import running
from tests.support.slots import confirmed, written
from walex_celery import Event, Spool, StreamMessage
from walex_celery.postgres.pgoutput import completed_lsn
from walex_celery.postgres.stream import ReplicationStream
from walex_celery.sources.spool.log import Log
from walex_celery.sources.spool.position import PositionFile
from walex_celery.sources.spool.reader import Reader


def ends(messages: list[StreamMessage]) -> list[int]:
    """Where the transactions among *messages* end."""
    return [end for message in messages if (end := completed_lsn(message.payload)) is not None]


class Written:
    """A log on a disk that may lose its power; at each step it is checked what would be left.

    Args:
        folder: of the log.
        copies: where to look at what would be left.
    """

    def __init__(self, folder: Path, copies: Path) -> None:
        folder.mkdir()
        self.disk = Disk(folder, self._look)
        self.log: Log | None = None
        self.acknowledged = 0
        self.done = 0
        self.looks = 0
        self._copies = copies

    def _look(self, what: str, path: Path) -> None:
        if self.log is None:
            return
        self.looks += 1
        if what == "before unlink" and path.suffix == ".spool":
            self._check_position(int(path.stem))
        for names_kept in (False, True):
            copy = self.disk.after_power_failure(self._copies, names_kept=names_kept)
            where = f"{what} of {path.name}, {'names kept' if names_kept else 'names lost'}"
            left = open_log(copy)
            waiting = ends(read_all(left))
            left.close()
            required = [end for end in range(100, self.acknowledged + 1, 100) if end > self.done]
            assert waiting == list(range(waiting[0], waiting[-1] + 1, 100)) if waiting else True, where
            assert set(required) <= set(waiting), where

    def _check_position(self, segment: int) -> None:
        """What says that a segment is done is on the disk before the segment goes."""
        position = PositionFile(self.disk.after_power_failure(self._copies, names_kept=False))
        assert position.found is not None
        assert position.found.consumed.segment > segment
        position.close()

    def write(self, chance: random.Random) -> None:
        """Append, sync, acknowledge and process, as a producer does."""
        self.log = log = open_log(self.disk.folder, segment_bytes=300)
        reader = Reader(log)
        for end in range(100, 4001, 100):
            messages = transaction(end, *[b"x" * chance.randrange(60)] * chance.randrange(1, 5))
            cut = chance.randrange(len(messages))
            for part in (messages[:cut], messages[cut:]):
                if part:
                    log.append(part)
            if chance.random() < 0.4:
                position = log.sync()
                log.acknowledge(position)
                self.acknowledged = position
            if chance.random() < 0.4:
                read = ends(reader.read())
                if read:
                    # Before: once done, it may go.
                    self.done = read[-1]
                    reader.acknowledge(read[-1], now=True)
        reader.close()


def test_at_each_step_what_was_acknowledged_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new segment has its header and its name, what is removed is known to be done."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # pytest shows it when the test fails
    written = Written(tmp_path / "spool", tmp_path / "left")
    with watching(written.disk, monkeypatch):
        written.write(random.Random(seed))
    assert written.looks > 100


def test_nothing_is_acknowledged_to_postgres_that_is_not_on_the_disk(
    database: Database, app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a real stream, at each acknowledgement."""
    database.execute(shop.SCHEMA)
    ((cluster,),) = database.execute("SELECT system_identifier FROM pg_control_system()")

    def ends_in(folder: Path) -> list[int]:
        log = open_log(folder, cluster=cluster)
        found = ends(read_all(log))
        log.close()
        return found

    folder = tmp_path / "spool"
    folder.mkdir()
    disk = Disk(folder)
    left: list[tuple[int, list[int]]] = []
    acknowledge = ReplicationStream.acknowledge
    may_return = threading.Event()

    def looking(stream: ReplicationStream, position: int, *, now: bool) -> None:
        if position > stream.acknowledged_lsn and not may_return.is_set():
            for names_kept in (False, True):
                copy = disk.after_power_failure(tmp_path / "left", names_kept=names_kept)
                left.append((position, ends_in(copy)))
        acknowledge(stream, position, now=now)

    monkeypatch.setattr(ReplicationStream, "acknowledge", looking)
    walex = shop.make_walex(app, database, message_middleware=Spool(folder, max_bytes=1 << 20))

    # Nothing is done meanwhile, so all that was read is in the spool.
    @walex.on_insert("items")
    def waits(events: list[Event]) -> None:
        may_return.wait(60)

    with watching(disk, monkeypatch), running(walex, timeout=60):
        for first in range(1, 1000, 200):
            database.execute(
                "DO $$ BEGIN FOR i IN %s..%s LOOP INSERT INTO items VALUES (i, repeat('x', 500)); COMMIT;"
                " END LOOP; END $$",
                (first, first + 199),
            )
            end = written(database)
            wait_until(lambda: confirmed(database) >= end, 30)  # noqa: B023
        assert len(segments(folder)) > 2
        all_ends = ends_in(shutil.copytree(folder, tmp_path / "all"))
        may_return.set()

    assert len(all_ends) == 1000
    assert len(left) >= 10
    for position, found in left:
        assert found[: len(all_ends)] == all_ends[: len(found)]
        assert not [end for end in all_ends[len(found) :] if end <= position]
