"""The log: what is appended is read, in order, once; room is freed as it is consumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import messages as m
from tests.sources.spool.support import CLUSTER, consume_to, open_log, read_all, segments, transaction
from walex_celery import SpoolError, StreamMessage
from walex_celery.sources.spool.log import Log
from walex_celery.sources.spool.position import Position
from walex_celery.sources.spool.reader import Reader, Rewound

USERS = m.relation(1, "users", [("id", m.INT4)])
PEOPLE = m.relation(1, "people", [("id", m.INT4)])


def reopened(log: Log, segment_bytes: int = 1 << 20) -> Log:
    log.close()
    return open_log(log.folder, segment_bytes=segment_bytes)


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    reader = Reader(log)
    assert reader.read() == []

    log.append(transaction(100) + transaction(200))
    assert reader.read() == transaction(100) + transaction(200)
    assert reader.read() == []
    log.append(transaction(300))
    assert reader.read() == transaction(300)
    assert log.end_lsn == 300


def test_small_records_are_read_together_and_large_ones_up_to_a_slice(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in range(1, 1001):
        log.append(transaction(number * 100))
    reader = Reader(log)

    sizes = []
    while messages := reader.read():
        sizes.append(len(messages))

    assert sum(sizes) == 3000
    assert sizes == [2001, 999]


def test_a_transaction_is_read_when_it_is_whole(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    reader = Reader(log)
    whole = transaction(200, b"1", b"2", b"3")

    log.append(transaction(100) + whole[:2])
    assert reader.read() == transaction(100)
    log.append(whole[2:4])
    assert reader.read() == []
    log.append(whole[4:] + transaction(300))
    assert reader.read() == whole + transaction(300)


def test_a_transaction_that_begins_again_is_in_it_once(tmp_path: Path) -> None:
    """The connection broke in its middle, in another segment than that of its begin."""
    log = open_log(tmp_path, segment_bytes=100)
    log.append(transaction(100))
    whole = transaction(200, *[b"x" * 50] * 10)
    for message in whole[:-3]:
        log.append([message])
    assert len(segments(tmp_path)) > 2

    log.drop_open_transaction()
    log.append(whole)

    assert read_all(log) == transaction(100) + whole


def test_it_goes_on_after_a_restart(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(transaction(100) + transaction(200)[:2])

    log = reopened(log)
    assert (log.end_lsn, log.in_transaction) == (100, False)
    log.append(transaction(200))

    assert read_all(log) == transaction(100) + transaction(200)


@pytest.mark.parametrize("segment_bytes", [1 << 20, 1])
def test_what_is_consumed_is_not_read_again(tmp_path: Path, segment_bytes: int) -> None:
    """To the transaction, also within what was appended at once."""
    log = open_log(tmp_path, segment_bytes=segment_bytes)
    log.append(transaction(100) + transaction(200, b"1", b"2") + transaction(300))
    log.append(transaction(400))
    everything = transaction(100) + transaction(200, b"1", b"2") + transaction(300) + transaction(400)
    for end_lsn, done in ((100, 3), (200, 7), (250, 7), (300, 10), (400, 13)):
        consume_to(log, end_lsn)
        log = reopened(log, segment_bytes=segment_bytes)
        assert read_all(log) == everything[done:]
    assert log.is_consumed
    assert log.waiting_bytes == 0


def test_segments_that_are_consumed_are_removed(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=1000)
    for number in range(1, 101):
        log.append(transaction(number * 100))
    before = len(segments(tmp_path))
    assert before > 5
    assert log.size_bytes == sum(path.stat().st_size for path in segments(tmp_path))

    consume_to(log, 5000)
    assert 1 < len(segments(tmp_path)) < before
    consume_to(log, 10000)
    assert len(segments(tmp_path)) == 1
    assert log.size_bytes == segments(tmp_path)[0].stat().st_size < 2000
    assert log.is_consumed


def test_a_transaction_larger_than_segments_is_dropped_back_to_what_was_consumed(tmp_path: Path) -> None:
    """Nothing that a cut needs is removed, though it be consumed."""
    log = open_log(tmp_path, segment_bytes=200)
    log.append(transaction(100, b"x" * 300))
    consume_to(log, 100)
    for message in (large := transaction(200, *[b"x" * 100] * 10))[:-1]:
        log.append([message])
    consume_to(log, 100)

    log.drop_open_transaction()
    log.append(large)
    assert read_all(log) == large
    log = reopened(log)
    assert read_all(log) == large


def test_rows_find_what_describes_them_after_a_restart(tmp_path: Path) -> None:
    """Postgres tells it once a connection; the segment with it may be gone, and it may have changed."""
    log = open_log(tmp_path, segment_bytes=400)
    log.append(transaction(100, describes=USERS))
    for number in range(2, 20):
        log.append(transaction(number * 100))
    consume_to(log, 1500)
    assert segments(tmp_path)[0].name > f"{1:020}.spool"

    log = reopened(log, segment_bytes=400)
    assert [message.payload for message in read_all(log)[:2]] == [USERS, m.begin(1592)]

    log.append(transaction(2000, describes=PEOPLE) + transaction(2100))
    consume_to(log, 2000)
    log = reopened(log)
    assert [message.payload for message in read_all(log)[:2]] == [PEOPLE, m.begin(2092)]


def test_a_large_message_is_read_whole(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    large = transaction(100, b"x" * 3_000_000)
    log.append(transaction(50) + large)
    log.append(transaction(200))

    assert read_all(log) == transaction(50) + large + transaction(200)


def test_after_a_failover_positions_begin_again(tmp_path: Path) -> None:
    """What was read of the old timeline is confirmed first, for the same position may be another transaction there."""
    log = open_log(tmp_path)
    log.append(transaction(100, describes=USERS) + transaction(200))
    log.append(transaction(300)[:2])

    log.follow(2)
    assert log.end_lsn == 0
    log.append(transaction(150))
    reader = Reader(log)
    assert reader.timeline == 1
    assert len(reader.read()) == 7
    with pytest.raises(Rewound):
        reader.read()
    reader.acknowledge(200, now=True)
    reader.restart()

    assert reader.timeline == 2
    assert reader.read() == [StreamMessage(USERS, 1)]
    assert reader.read() == transaction(150)
    reader.acknowledge(150, now=True)
    assert log.is_consumed


def test_the_wal_s_end_is_told_when_all_was_read(tmp_path: Path) -> None:
    """Promise 5: an idle database's position goes on."""
    log = open_log(tmp_path)
    reader = Reader(log)
    log.append(transaction(100))
    log.sync()
    log.acknowledge(5000)

    assert reader.wal_end == 0
    reader.read()
    assert reader.wal_end == 5000


def test_a_spool_of_another_cluster_or_slot_is_refused(tmp_path: Path) -> None:
    open_log(tmp_path).close()

    with pytest.raises(
        SpoolError, match=r"slot 'shop_walex' of the cluster .*reads slot 'shop_walex' of 42\n"
    ):
        open_log(tmp_path, cluster=42)
    with pytest.raises(SpoolError, match=f"reads slot 'other' of {CLUSTER}"):
        open_log(tmp_path, slot="other")


def test_a_missing_segment_is_told(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=1)
    for number in range(1, 5):
        log.append(transaction(number * 100))
    log.sync()
    log.acknowledge(400)
    log.close()
    first, second, *_, last = segments(tmp_path)

    kept = last.read_bytes()
    last.unlink()
    with pytest.raises(SpoolError, match="segments are missing"):
        open_log(tmp_path)
    last.write_bytes(kept)
    second.unlink()
    with pytest.raises(SpoolError, match=f"{second} is missing"):
        open_log(tmp_path)
    for path in segments(tmp_path):
        path.unlink()
    with pytest.raises(SpoolError, match="has lost its segments"):
        open_log(tmp_path)
    assert first.name == f"{1:020}.spool"


def test_another_version_of_the_format_is_told(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[9] = 2
    path.write_bytes(data)

    with pytest.raises(SpoolError, match="version 2 of the spool's format, and this walex-celery reads 1"):
        open_log(tmp_path)


def test_what_half_made_segments_a_crash_left_is_removed(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(transaction(100))
    log.close()
    half_made = tmp_path / f"{2:020}.spool.tmp"
    half_made.write_bytes(b"WalEx")

    log = open_log(tmp_path)

    assert not half_made.exists()
    assert read_all(log) == transaction(100)


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    """Promise 9: they hold rows."""
    log = open_log(tmp_path)
    log.append(transaction(100))

    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert log.consumed == Position(1, 0)


def test_a_failover_before_the_first_transaction_is_gone_past(tmp_path: Path) -> None:
    """It was read for ever: nothing in the first segment could be done."""
    log = open_log(tmp_path)
    reader = Reader(log)
    assert reader.read() == []
    log.follow(2)
    log.append(transaction(100))

    with pytest.raises(Rewound):
        reader.read()
    reader.restart()

    assert reader.timeline == 2
    assert reader.read() == transaction(100)
    reader.close()
    log.close()
