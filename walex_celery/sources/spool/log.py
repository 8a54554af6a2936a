"""The log: messages in order, appended by one thread and read by another, on disk before they are acknowledged."""

from __future__ import annotations

import errno
import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from walex_celery._failpoints import failpoint
from walex_celery.errors import SpoolError, SpoolUnavailable
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.stream import StreamMessage
from walex_celery.sources.history import Landmark
from walex_celery.sources.spool.position import Position, PositionFile, Positions
from walex_celery.sources.spool.record import Header, encode_messages, whole_part
from walex_celery.sources.spool.recovery import Recovered, first_boundary
from walex_celery.sources.spool.reserve import Reserve
from walex_celery.sources.spool.segment import Segment, numbers_in, path_of
from walex_celery.sources.spool.trail import Trail

logger = logging.getLogger("walex_celery.spool.log")

_NOWHERE: Final = Position(0, 0)
#: The size of a new segment without its description of relations: its folder's entry, and blocks rounded up.
_SEGMENT_BYTES: Final = 8192


class _Stored(NamedTuple):
    """What is on the disk: everything before *end*, which reaches *lsn* in the WAL, and what ends there."""

    end: Position
    lsn: Lsn
    landmark: Landmark | None


class DiskFull(SpoolUnavailable):
    """There is no room for a record; nothing has changed."""


class Log:
    """The log in *folder*, which must be locked.

    One thread appends, rotates, syncs and rewinds; another reads (``reader.py``) and calls :meth:`consume`.

    Args:
        system_identifier: of the cluster whose messages it holds.
        timeline, publications: of a log that is made now; see :meth:`follow`.
        slot: the name of the slot that they come from.
        segment_bytes: a segment that is this large is followed by another.

    Raises:
        SpoolError: it is of another cluster or slot, or damaged before what was acknowledged.
        OSError: it can't be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        system_identifier: int,
        timeline: int,
        slot: str,
        segment_bytes: int,
        publications: int = 0,
    ) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        #: Whether messages follow :attr:`end` whose transaction's own end has not been appended.
        self.in_transaction = False
        #: Counts how often what may have been read was taken back.
        self.rewound = 0
        self._positions = PositionFile(folder)
        found = self._positions.found
        try:
            first = Header(system_identifier, timeline, slot, 1, 0, False, [], publications)
            numbers = _numbers(folder, first, found)
            found = found or Positions(_NOWHERE, _NOWHERE, 0)
            recovered = Recovered(folder, numbers, found.stored)
        except BaseException:
            self._positions.close()
            raise
        self._tail = recovered.tail
        self._described = recovered.described
        #: Everything before it may be read: the end of the last whole transaction.
        self.end = recovered.end
        #: The position in the WAL of :attr:`end`; 0 where there is none of this timeline.
        self.end_lsn = Lsn(recovered.end_lsn)
        self._trail = recovered.trail
        self._stored = _Stored(self.end, self.end_lsn, self.landmark)
        #: What was acknowledged last.
        self.acknowledged_lsn = Lsn(found.acknowledged_lsn)
        numbers = list(range(numbers[0], self._tail.number + 1))
        self._sizes = {number: path_of(folder, number).lstat().st_size for number in numbers}
        #: Everything before it is done.
        self.consumed = found.consumed
        if found.consumed.segment < numbers[0]:
            # The file with the position was lost; what is gone was done.
            self.consumed = first_boundary(folder, numbers) or self.end
        self.consume(min(self.consumed, self.end), rewound=self.rewound)
        self._reserve = Reserve(folder)
        self._keep_reserve()

    # The thread that appends.

    @property
    def size_bytes(self) -> int:
        """What the segments take of the disk."""
        with self._lock:
            return sum(self._sizes.values())

    @property
    def waiting_bytes(self) -> int:
        """What of it is not done."""
        with self._lock:
            return 0 if self.is_consumed else sum(self._sizes.values()) - self.consumed.offset

    @property
    def is_consumed(self) -> bool:
        """Whether every whole transaction in it is done, so that processing can free nothing more."""
        return self.consumed >= self.end

    @property
    def is_stored(self) -> bool:
        """Whether every whole transaction in it is on the disk."""
        return self._stored.end == self.end

    @property
    def landmark(self) -> Landmark | None:
        """What ends at :attr:`end_lsn`, if that is known."""
        return self._trail.landmark

    @property
    def publications(self) -> int:
        """A checksum of those that what is appended is published by."""
        return self._tail.header.publications

    def check_owner(self, system_identifier: int, slot: str) -> None:
        """That it holds messages of this slot of this cluster; SpoolError if not."""
        _check_owner(self.folder, self._tail.header, system_identifier, slot)

    def append(self, messages: list[StreamMessage]) -> None:
        """Write *messages* after those before; they may be read at once, and are safe after :meth:`sync`.

        Raises:
            DiskFull: nothing was appended; try again.
            SpoolUnavailable: the disk fails.
        """
        # The first room that there is goes there: a segment that was removed takes its own until its reader goes on.
        self._keep_reserve()
        whole, end_lsn = whole_part(messages)
        records = []
        if whole:
            records.append(encode_messages(messages[:whole], end_lsn))
        if whole < len(messages):
            records.append(encode_messages(messages[whole:], None))
        try:
            if self._tail.size >= self._segment_bytes:
                self._rotate(self._tail.header.timeline, self.publications)
            start = self._tail.size
            self._tail.write(records)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"the disk has no room for the spool in {self.folder}") from error
            raise self._failing(error) from error
        self._described.note(messages)
        self._trail.note(messages, whole, self.publications)
        self.in_transaction = whole < len(messages)
        with self._lock:
            self._sizes[self._tail.number] = self._tail.size
            if whole:
                self.end = Position(self._tail.number, start + sum(map(len, records[0])))
                self.end_lsn = Lsn(end_lsn)
        failpoint("spool-written")

    def sync(self) -> Lsn:
        """Have every whole transaction on the disk; returns the position up to which they reach.

        Raises:
            SpoolUnavailable: the disk fails; what it may not have is taken back, to be read from Postgres again.
        """
        if not self.is_stored:
            self._sync_tail()
        return self._stored.lsn

    def _sync_tail(self) -> None:
        stored = _Stored(self.end, self.end_lsn, self.landmark)
        try:
            self._tail.sync()
        except OSError as error:
            # The kernel may have dropped what it could not write, and says so only once.
            self._take_back()
            raise self._failing(error) from error
        self._stored = stored
        failpoint("spool-synced")

    def acknowledge(self, position: int) -> None:
        """Remember that everything up to *position* is about to be acknowledged."""
        with self._lock:
            self.acknowledged_lsn = Lsn(position)
            self._free()

    def drop_open_transaction(self) -> None:
        """Forget the transaction whose end was not appended: the stream broke, and will send it again."""
        if self.in_transaction:
            self._cut(self.end)

    def follow(self, timeline: int, publications: int | None = None) -> None:
        """What is appended from now on is of *timeline*, whose positions may be those of other transactions.

        Args:
            timeline: of the cluster.
            publications: a checksum of those that it is published by; ``None`` for the same as before.

        Raises:
            SpoolUnavailable: the disk fails.
        """
        if publications is None:
            publications = self.publications
        if timeline != self._tail.header.timeline or publications != self.publications:
            self.drop_open_transaction()
            try:
                self._rotate(timeline, publications)
            except OSError as error:
                raise self._failing(error) from error

    @property
    def is_blocked(self) -> bool:
        """Whether all that is done stays, because a transaction has begun behind it whose end has not been appended."""
        return self.in_transaction and self.is_consumed and self.end.offset > 0

    def make_room(self) -> bool:
        """Remove the last segment too, if all of it is done; whether that was so."""
        if not self.is_consumed or self.in_transaction or self._tail.size == self._tail.first:
            return False
        before = self._tail.number
        self._reserve.release()
        with suppress(OSError):
            self._rotate(self._tail.header.timeline, self.publications)
        self._keep_reserve()
        return self._tail.number > before

    def _keep_reserve(self) -> None:
        self._reserve.keep(_SEGMENT_BYTES + 2 * self._tail.first)

    def _rotate(self, timeline: int, publications: int) -> None:
        """Begin a new segment."""
        before = self._tail
        # So that only the last segment can end in a torn write.
        before.truncate(before.size)
        self._sync_tail()
        same = timeline == before.header.timeline
        trail = self._trail if same else Trail()
        header = Header(
            before.header.system_identifier,
            timeline,
            before.header.slot,
            before.number + 1,
            int(self.end_lsn) if same else 0,
            self.in_transaction,
            self._described.messages(),
            publications,
            *trail.texts(),
        )
        self._tail = Segment.create(self.folder, header)
        self._trail = trail
        before.close()
        with self._lock:
            if not same:
                self.acknowledged_lsn = Lsn(0)
            self._sizes[self._tail.number] = self._tail.size
            if not self.in_transaction:
                self.end, self.end_lsn = Position(self._tail.number, 0), Lsn(header.end_lsn)
                self._stored = _Stored(self.end, self.end_lsn, self.landmark)
            self._free()

    def _take_back(self) -> None:
        with self._lock:
            self.end, self.end_lsn, self._trail.landmark = self._stored
            self.consumed = min(self.consumed, self.end)
            self.rewound += 1
        self._cut(self.end)

    def _cut(self, end: Position) -> None:
        """Cut off what follows *end*."""
        while self._tail.number > end.segment:
            self._tail.close()
            self._tail.path.unlink()
            with self._lock:
                del self._sizes[self._tail.number]
            self._tail = Segment.open(self.folder, self._tail.number - 1)
        self._tail.truncate(end.offset or self._tail.first)
        self.in_transaction = False
        with self._lock:
            self._sizes[self._tail.number] = self._tail.size

    # The thread that reads.

    def consume(self, position: Position, *, rewound: int) -> None:
        """Everything before *position* is done.

        Args:
            position: in the log.
            rewound: what :attr:`rewound` was when it was read. If more was taken back since, there may be something
                else at *position* now, and nothing is done.
        """
        with self._lock:
            if rewound != self.rewound:
                return
            self.consumed = position
            self._free()

    def _free(self) -> None:
        """Remember what is done, and remove the segments that are."""
        # Not past the end's own segment, though that be done: what is cut off is cut off there.
        if (
            self.consumed.segment < self.end.segment
            and self.consumed.offset >= self._sizes[self.consumed.segment]
        ):
            self.consumed = Position(self.consumed.segment + 1, 0)
        # Nor past what is on the disk: a host that loses its power would be left with the middle of a transaction.
        kept = min(self.consumed.segment, self._stored.end.segment)
        done = [number for number in self._sizes if number < kept]
        try:
            self._save()
            if done:
                # Before they go: what is done must never end in a segment that is gone.
                self._positions.sync()
                failpoint("spool-position-saved")
            for number in done:
                path_of(self.folder, number).unlink(missing_ok=True)
                del self._sizes[number]
        except OSError as error:
            # Some tasks may be sent again, with their ids, or a damage be taken for a torn write: no reason to stop.
            logger.warning(
                "the spool in %s can't remember what is done, or remove it: %s", self.folder, error
            )

    def _save(self) -> None:
        self._positions.write(Positions(self.consumed, self._stored.end, self.acknowledged_lsn))

    def _failing(self, error: OSError) -> SpoolUnavailable:
        return SpoolUnavailable(f"the spool in {self.folder} can't be written: {error.strerror or error}")

    def close(self) -> None:
        """Close the files."""
        self._tail.close()
        self._positions.close()


def _numbers(folder: Path, first: Header, found: Positions | None) -> list[int]:
    """The segments of the log, after a look at whose they are; the first one is made if there is none."""
    numbers = numbers_in(folder)
    if not numbers:
        if found is not None:
            raise SpoolError(
                f"the spool in {folder} has lost its segments: none is there\n"
                "  fix: move the folder away, and see 'A damaged spool' in docs/operations/spool.md"
            )
        Segment.create(folder, first).close()
        return [1]
    last = Segment.open(folder, numbers[-1])
    last.close()
    _check_owner(folder, last.header, first.system_identifier, first.slot)
    return numbers


def _check_owner(folder: Path, header: Header, system_identifier: int, slot: str) -> None:
    if (header.system_identifier, header.slot) != (system_identifier, slot):
        raise SpoolError(
            f"the spool in {folder} is of slot {header.slot!r} of the cluster with system identifier "
            f"{header.system_identifier}, and this producer reads slot {slot!r} of {system_identifier}\n"
            "  fix: let the producer that it belongs to empty it, or give this one another folder"
        )
