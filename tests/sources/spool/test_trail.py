"""By what a spool recognises the history that it holds: always what ends at its end, whatever happened to its files."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import messages as m
from tests.sources.spool.support import consume_to, of, open_log, transaction
from walex_celery import StreamMessage
from walex_celery.errors import SpoolUnavailable
from walex_celery.sources.history import Landmark
from walex_celery.sources.spool.log import Log
from walex_celery.sources.spool.record import encode_header, parse


class OldHeader(msgspec.Struct, array_like=True):
    """As of the version before landmarks."""

    system_identifier: int
    timeline: int
    slot: str
    number: int
    end_lsn: int
    in_transaction: bool
    described: list[StreamMessage]


def at(commit_lsn: int, publications: int = 0) -> Landmark | None:
    return Landmark.of(m.begin(commit_lsn), publications)


def reopened(log: Log, segment_bytes: int = 1 << 20) -> Log:
    log.close()
    return open_log(log.folder, segment_bytes=segment_bytes)


@pytest.mark.parametrize("segment_bytes", [1 << 20, 100])
def test_it_is_the_last_whole_transaction(tmp_path: Path, segment_bytes: int) -> None:
    """In one segment, or begun in an earlier one; also after a restart, which cuts off what is not whole."""
    log = open_log(tmp_path, segment_bytes=segment_bytes)
    assert log.landmark is None
    for message in transaction(200, *[b"x" * 50] * 10):
        log.append([message])
    assert log.landmark == at(192)
    log.append(transaction(300) + transaction(400)[:2])
    assert log.landmark == at(292)

    log = reopened(log, segment_bytes)
    assert (log.end_lsn, log.landmark) == (300, at(292))
    log.append(transaction(400)[:2])
    log.drop_open_transaction()
    assert log.landmark == at(292)
    log.append(transaction(400))
    assert log.landmark == at(392)


def test_a_message_outside_of_transactions_is_one_too(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    note = of(m.message("audit", b"x", transactional=False, lsn=250))
    log.append(transaction(200) + note)

    assert log.landmark == reopened(log).landmark == Landmark.of(note[0].payload, 0)


def test_it_is_kept_when_its_own_segment_is_gone(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(transaction(200))
    consume_to(log, 200)
    assert log.make_room()

    assert log.landmark == reopened(log).landmark == at(192)


def test_what_is_taken_back_takes_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(tmp_path)
    log.append(transaction(200))
    log.sync()
    log.append(transaction(300))

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", failing)
        with pytest.raises(SpoolUnavailable):
            log.sync()

    assert (log.end_lsn, log.landmark) == (200, at(192))


def test_on_another_timeline_there_is_none(tmp_path: Path) -> None:
    """Nor is what was acknowledged a position of that one."""
    log = open_log(tmp_path)
    log.append(transaction(200))
    log.sync()
    log.acknowledge(500)

    log.follow(2)

    assert (log.end_lsn, log.landmark, log.acknowledged_lsn) == (0, None, 0)


def test_it_is_of_the_publications_that_it_was_read_with(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.follow(1, 7)
    log.append(transaction(200))
    assert log.landmark == at(192, 7)
    log.follow(1, 8)
    assert (log.landmark, log.publications) == (at(192, 7), 8)

    log = reopened(log)
    assert (log.landmark, log.publications) == (at(192, 7), 8)
    log.append(transaction(300))
    assert reopened(log).landmark == at(292, 8)


def test_a_segment_of_an_older_version_is_read(tmp_path: Path) -> None:
    """Its header has no landmark; what its records hold is one, of publications that are not known."""
    log = open_log(tmp_path)
    log.append(transaction(200))
    log.close()
    (path,) = tmp_path.glob("*.spool")
    data = path.read_bytes()
    new = parse(data, 10)
    old: Any = OldHeader(*msgspec.msgpack.decode(new.body)[:7])
    path.write_bytes(data[:10] + encode_header(old) + data[10 + new.size :])

    log = open_log(tmp_path)

    assert (log.end_lsn, log.landmark, log.publications) == (200, at(192), 0)
