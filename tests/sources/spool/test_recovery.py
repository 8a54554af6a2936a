"""Promise 1: whatever a crash leaves of the log, what Postgres was told is stored is there, or its loss is told."""

from __future__ import annotations

import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests import messages as m
from tests.sources.spool.support import consume_to, open_log, read_all, segments, transaction
from walex_celery import SpoolError, StreamMessage
from walex_celery.postgres.pgoutput import completed_lsn
from walex_celery.sources.spool.position import Position, PositionFile, Positions
from walex_celery.sources.spool.reader import Reader
from walex_celery.sources.spool.segment import Segment

UNITS = [
    transaction(100, describes=m.relation(1, "users", [("id", m.INT4)])),
    transaction(200, b"1", b"2"),
    transaction(300),
    transaction(400, b"x" * 40),
]
OPEN = transaction(500, b"1", b"2")[:-1]


def until(end_lsn: int) -> list[StreamMessage]:
    return [message for unit in UNITS[: end_lsn // 100] for message in unit]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A log of four transactions and an open one; Postgres was told that the first two are stored."""
    folder = tmp_path / "written"
    folder.mkdir()
    log = open_log(folder)
    for end_lsn, unit in enumerate(UNITS, 1):
        log.append(unit)
        if end_lsn == 2:
            log.sync()
            log.acknowledge(200)
    log.append(OPEN)
    log.close()
    return folder


def copies(folder: Path) -> Iterator[Path]:
    """Copies of *folder*, without end."""
    for number in count():
        yield Path(shutil.copytree(folder, folder.with_name(f"copy{number}")))


def stored_bytes(folder: Path) -> int:
    """Where what is stored ends in its only segment."""
    file = PositionFile(folder)
    file.close()
    assert file.found is not None
    return file.found.stored.offset


def test_a_file_that_ends_anywhere(written: Path) -> None:
    """A write that was torn: whole transactions before it stay, and Postgres is asked for the rest."""
    (path,) = segments(written)
    size, stored = path.stat().st_size, stored_bytes(written)
    found = set()
    for end, copy in zip(range(size + 1), copies(written), strict=False):
        (torn,) = segments(copy)
        with torn.open("r+b") as file:
            file.truncate(end)
        if end < stored:
            with pytest.raises(SpoolError, match=f"{torn} is damaged at offset"):
                open_log(copy)
        else:
            log = open_log(copy)
            assert read_all(log) == until(log.end_lsn)
            found.add(int(log.end_lsn))
            kept = until(log.end_lsn)
            log.append(transaction(900))
            assert read_all(log) == kept + transaction(900)
            log.close()
        shutil.rmtree(copy)
    assert found == {200, 300, 400}


def test_a_byte_that_is_another_anywhere(written: Path) -> None:
    """Before what Postgres was told is stored: an error with file and offset. After: as a torn write."""
    (path,) = segments(written)
    size, stored = path.stat().st_size, stored_bytes(written)
    for at, copy in zip(range(size), copies(written), strict=False):
        (altered,) = segments(copy)
        data = bytearray(altered.read_bytes())
        data[at] ^= 0x10
        altered.write_bytes(data)
        if at < stored:
            with pytest.raises(SpoolError, match=str(altered)) as caught:
                open_log(copy)
            told = re.search(r"at offset (\d+)", str(caught.value))
            assert 8 <= at <= 9 or (told is not None and int(told[1]) <= at), "but the version's own bytes"
        else:
            log = open_log(copy)
            assert log.end_lsn in (200, 300, 400)
            assert read_all(log) == until(log.end_lsn)
            log.close()
        shutil.rmtree(copy)


@pytest.mark.parametrize("rubbish", [bytes(5000), b"\xff" * 5000, b"rubbish"])
def test_rubbish_after_the_end(written: Path, rubbish: bytes) -> None:
    """What a file system may leave when the power goes while a file grows."""
    (path,) = segments(written)
    with path.open("ab") as file:
        file.write(rubbish)

    log = open_log(written)

    assert (log.end_lsn, read_all(log)) == (400, until(400))
    assert rubbish not in path.read_bytes()


def test_only_the_last_segment_may_be_torn(tmp_path: Path) -> None:
    """Those before it were on the disk before it was made; here the last has but the middle of a transaction."""
    log = open_log(tmp_path, segment_bytes=1)
    for messages in [*UNITS[:3], OPEN[:2], OPEN[2:]]:
        log.append(messages)
    log.close()
    *_, before_last, _ = segments(tmp_path)
    before_last.write_bytes(before_last.read_bytes()[:-1])

    with pytest.raises(SpoolError, match=f"{before_last} is damaged at offset"):
        open_log(tmp_path)


def test_a_damaged_record_that_waits_is_told_when_it_is_read(tmp_path: Path) -> None:
    """Segments between what is consumed and the last are not looked at before."""
    log = open_log(tmp_path, segment_bytes=1)
    for unit in UNITS:
        log.append(unit)
    second = segments(tmp_path)[1]
    data = bytearray(second.read_bytes())
    data[-3] ^= 1
    second.write_bytes(data)

    with pytest.raises(
        SpoolError, match=rf"{second} is damaged at offset \d+: a record whose checksum is wrong"
    ):
        read_all(log)


def test_a_torn_position_leaves_the_one_before(tmp_path: Path) -> None:
    earlier = Positions(Position(1, 100, 2), Position(1, 200), 300)
    later = Positions(Position(2, 0), Position(2, 100), 400)
    file = PositionFile(tmp_path)
    assert file.found is None
    file.write(earlier)
    file.write(later)
    file.close()
    path = tmp_path / "position"
    data = path.read_bytes()

    found = set()
    for at, byte in enumerate(data):
        path.write_bytes(data[:at] + bytes([byte ^ 0x40]) + data[at + 1 :])
        file = PositionFile(tmp_path)
        found.add(file.found)
        file.close()

    assert found == {earlier, later}


@pytest.mark.parametrize("lost", ["all of it", "the newest"])
def test_a_position_that_is_lost_does_not_begin_inside_a_transaction(tmp_path: Path, lost: str) -> None:
    """Segments before the first one are done, and with them the transaction that it begins in."""
    log = open_log(tmp_path, segment_bytes=300)
    position = tmp_path / "position"
    log.append(UNITS[0])
    before = position.read_bytes()
    whole = transaction(200, *[b"x" * 40] * 20)
    for message in whole[:-1]:
        log.append([message])
    log.append(whole[-1:] + UNITS[2])
    log.append(UNITS[3])
    log.sync()
    consume_to(log, 200)
    assert int(segments(tmp_path)[0].stem) > 1
    log.close()

    if lost == "all of it":
        position.unlink()
    else:
        position.write_bytes(before)

    assert read_all(open_log(tmp_path))[1:] == UNITS[2] + UNITS[3]


def test_what_is_done_and_not_on_the_disk_is_not_removed(tmp_path: Path) -> None:
    """A host that loses its power may lose the end of a transaction; its beginning must not be gone before."""
    log = open_log(tmp_path, segment_bytes=1)
    whole = transaction(100, b"1", b"2")
    for message in whole:
        log.append([message])
    consume_to(log, 100)
    *_, last = segments(tmp_path)
    assert len(segments(tmp_path)) == len(whole)
    log.close()
    last.write_bytes(last.read_bytes()[:-1])

    log = open_log(tmp_path, segment_bytes=1)
    assert (log.end_lsn, read_all(log)) == (0, [])
    log.append(whole)
    consume_to(log, 100)
    log.acknowledge(log.sync())
    assert len(segments(tmp_path)) == 1


def test_without_a_position_everything_is_read_again(written: Path) -> None:
    (written / "position").unlink()

    assert read_all(open_log(written)) == until(400)


def end_of(unit: list[StreamMessage]) -> int:
    end_lsn = completed_lsn(unit[-1].payload)
    assert end_lsn is not None
    return end_lsn


class Crashes(RuleBasedStateMachine):
    """A log that is written, read and crashes at random, next to lists that say what should be in it."""

    def __init__(self) -> None:
        super().__init__()
        self.lsn = 0
        self.units: list[list[StreamMessage]] = []
        self.acknowledged = 0
        self.consumed = 0
        #: Of the open transaction: what was appended, and what was not yet.
        self.part: list[StreamMessage] = []
        self.open: list[StreamMessage] = []

    @initialize(seed=st.integers(0, 2**32), segment_bytes=st.sampled_from([1, 150, 400, 1 << 20]))
    def begin(self, seed: int, segment_bytes: int) -> None:
        self.random = random.Random(seed)
        self.folder = Path(tempfile.mkdtemp(prefix="walex-spool-"))
        self.segment_bytes = segment_bytes
        self.log = open_log(self.folder, segment_bytes=segment_bytes)
        self.reader = Reader(self.log)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.reader.close()
            self.log.close()
            shutil.rmtree(self.folder)

    @rule(rows=st.lists(st.binary(max_size=60), min_size=1, max_size=4))
    def begin_transaction(self, rows: list[bytes]) -> None:
        self.finish()
        self.lsn += 100
        self.open = transaction(self.lsn, *rows)

    @rule(size=st.integers(1, 5))
    def append(self, size: int) -> None:
        part, rest = self.open[:size], self.open[size:]
        if part:
            self.log.append(part)
            self.part, self.open = self.part + part, rest
            if not rest:
                self.units.append(self.part)
                self.part = []

    def finish(self) -> None:
        while self.open:
            self.append(5)

    @rule()
    def several_at_once(self) -> None:
        self.finish()
        units = []
        for _ in range(3):
            self.lsn += 100
            units.append(transaction(self.lsn))
        self.log.append([message for unit in units for message in unit])
        self.units += units

    @rule()
    def sync(self) -> None:
        end_lsn = self.log.sync()
        self.log.acknowledge(end_lsn)
        self.acknowledged = int(end_lsn)

    @rule(share=st.floats(0, 1))
    def process(self, share: float) -> None:
        while self.reader.read():
            pass
        ends = [end_of(unit) for unit in self.units if end_of(unit) > self.consumed]
        if ends:
            self.consumed = ends[int(share * (len(ends) - 1))]
            self.reader.acknowledge(self.consumed, now=True)

    @rule()
    def connection_breaks(self) -> None:
        self.log.drop_open_transaction()
        self.open, self.part = [], []

    @rule(torn=st.floats(0, 1))
    def crash(self, torn: float) -> None:
        """The process is killed while it writes: some of what was not acknowledged is not there."""
        self.reader.close()
        self.log.close()
        last = segments(self.folder)[-1]
        found = PositionFile(self.folder)
        found.close()
        assert found.found is not None
        stored = found.found.stored
        number = int(last.stem)
        least = max(stored.offset if stored.segment == number else 0, first_record(self.folder, number))
        size = last.stat().st_size
        with last.open("r+b") as file:
            file.truncate(least + int(torn * (size - least)))
        self.log = open_log(self.folder, segment_bytes=self.segment_bytes)
        self.reader = Reader(self.log)
        end = int(self.log.end_lsn)
        assert end >= self.acknowledged
        self.consumed = min(self.consumed, end)
        self.units = [unit for unit in self.units if end_of(unit) <= end]
        self.open, self.part = [], []

    @precondition(lambda self: hasattr(self, "log"))
    @invariant()
    def what_waits_is_there_once_and_in_order(self) -> None:
        waiting = [message for unit in self.units if end_of(unit) > self.consumed for message in unit]
        assert read_all(self.log) == waiting
        assert self.log.size_bytes == sum(path.stat().st_size for path in segments(self.folder))


def first_record(folder: Path, number: int) -> int:
    segment = Segment.open(folder, number)
    segment.close()
    return segment.first


TestCrashes = Crashes.TestCase
TestCrashes.settings = hypothesis_settings(max_examples=100, stateful_step_count=30)
