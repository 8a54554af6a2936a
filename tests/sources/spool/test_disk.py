"""Disks that are full or fail: said, waited for, and nothing that is not on them is acknowledged (promise 1)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.sources.spool.support import open_log, read_all, transaction
from walex_celery.errors import SpoolUnavailable
from walex_celery.sources.spool.log import DiskFull, Log
from walex_celery.sources.spool.reader import Reader, Rewound


def fill(log: Log) -> None:
    while True:
        log.append(transaction(log.end_lsn + 100, os.urandom(3000)))


def test_a_full_disk_changes_nothing_and_goes_on_when_there_is_room(tiny_disk: Path) -> None:
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(bytes(100_000))
    log = open_log(tiny_disk, segment_bytes=20_000)
    reader = Reader(log)
    with pytest.raises(DiskFull, match=f"the disk has no room for the spool in {tiny_disk}"):
        fill(log)
    full, last = log.size_bytes, log.end_lsn
    with pytest.raises(DiskFull):
        log.append(transaction(200_000, os.urandom(9000)))
    assert (log.size_bytes, log.end_lsn) == (full, last)
    assert log.sync() == last

    ballast.unlink()
    more = transaction(300_000, os.urandom(9000))
    log.append(more)

    found = read_all(log)
    assert len(found) == 3 * last // 100 + 3
    assert found[-3:] == more
    while reader.read():
        pass
    reader.acknowledge(300_000, now=True)
    assert log.is_consumed


def test_room_that_processing_frees_is_used(tiny_disk: Path) -> None:
    log = open_log(tiny_disk, segment_bytes=20_000)
    reader = Reader(log)
    for _ in range(3):
        before = log.end_lsn
        with pytest.raises(DiskFull):
            fill(log)
        assert log.end_lsn > before
        while reader.read():
            pass
        reader.acknowledge(log.end_lsn, now=True)


def test_a_disk_that_one_segment_fills_is_freed_when_that_is_done(tiny_disk: Path) -> None:
    log = open_log(tiny_disk, segment_bytes=1 << 30)
    reader = Reader(log)
    with pytest.raises(DiskFull):
        fill(log)
    assert not log.make_room()
    while reader.read():
        pass
    reader.acknowledge(log.end_lsn, now=True)

    assert log.make_room()
    assert not log.make_room(), "there is no more"
    assert reader.read() == []  # and closes the file that was removed
    log.append(transaction(log.end_lsn + 100, os.urandom(100_000)))


def test_a_transaction_whose_beginning_alone_found_room_is_told_to_be_in_the_way(tiny_disk: Path) -> None:
    log = open_log(tiny_disk, segment_bytes=1 << 30)
    reader = Reader(log)
    with pytest.raises(DiskFull):
        fill(log)
    begin, *rest = transaction(log.end_lsn + 100, os.urandom(9000))
    log.append([begin])
    with pytest.raises(DiskFull):
        log.append(rest)
    assert not log.is_blocked
    while reader.read():
        pass
    reader.acknowledge(log.end_lsn, now=True)

    assert log.is_blocked
    assert not log.make_room()
    log.drop_open_transaction()
    assert log.make_room()
    assert not log.is_blocked
    assert reader.read() == []
    log.append([begin, *rest])


def test_a_write_that_fails_half_way_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(tmp_path)
    log.append(transaction(100))
    write = os.pwritev

    def failing(descriptor: int, parts: list[bytes], offset: int) -> int:
        write(descriptor, [parts[0]], offset)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", failing)
        with pytest.raises(SpoolUnavailable, match="can't be written: Input/output error"):
            log.append(transaction(200))

    log.append(transaction(300))
    assert read_all(log) == transaction(100) + transaction(300)


def test_what_a_disk_failed_to_sync_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may have dropped it, and says so once: it is to be read from Postgres again."""
    log = open_log(tmp_path, segment_bytes=150)
    reader = Reader(log)
    log.append(transaction(100))
    assert log.sync() == 100
    for lsn in (200, 300, 400):
        log.append(transaction(lsn))
        assert reader.read()

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", failing)
        with pytest.raises(SpoolUnavailable, match="can't be written: Input/output error"):
            log.sync()

    assert log.sync() == log.end_lsn < 400
    reader.acknowledge(400, now=True)
    with pytest.raises(Rewound):
        reader.read()
    reader.restart()
    end_lsn = log.end_lsn
    again = [transaction(lsn) for lsn in (200, 300, 400) if lsn > end_lsn]
    for unit in again:
        log.append(unit)
    assert log.sync() == 400
    assert read_all(log)[-3 * len(again) :] == [message for unit in again for message in unit]
