"""What a log's files hold after whatever ended the last process: the good part kept, the torn end cut off."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from walex_celery.errors import SpoolError
from walex_celery.postgres.pgoutput import completed_lsn
from walex_celery.sources.spool.position import Position
from walex_celery.sources.spool.record import DESCRIBES, WHOLE, BadRecord, Described
from walex_celery.sources.spool.segment import Segment, damaged
from walex_celery.sources.spool.trail import Trail


class Recovered:
    """The last segment that stays, cut after its last whole transaction.

    What is cut off was not acknowledged, so Postgres sends it again: a torn write, and a transaction whose end
    did not come.

    Args:
        folder: of the log.
        numbers: of its segments.
        stored: everything before this has been acknowledged.

    Raises:
        SpoolError: bytes before *stored* are not as they were written.
    """

    def __init__(self, folder: Path, numbers: list[int], stored: Position) -> None:
        if stored.segment > numbers[-1]:
            raise SpoolError(
                f"{folder} ends with segment {numbers[-1]}, and {stored.segment} has been acknowledged to Postgres: "
                "segments are missing. See 'A damaged spool' in docs/operations/spool.md"
            )
        for number in reversed(numbers):
            self.tail = Segment.open(folder, number)
            try:
                if self._keep(stored, is_first=number == numbers[0], is_last=number == numbers[-1]):
                    break
            except BaseException:
                self.tail.close()
                raise
            # All of it belongs to a transaction that began before it, and that will be sent again.
            self.tail.close()
            self.tail.path.unlink()

    def _keep(self, stored: Position, *, is_first: bool, is_last: bool) -> bool:
        """Cut the tail where it ends; whether it has a place where it may."""
        tail = self.tail
        self.end_lsn = tail.header.end_lsn
        self.described = Described(tail.header.described)
        self.trail = Trail.of(tail.header)
        end = self._scan(stored, is_last=is_last)
        self.end = Position(tail.number, end or 0)
        if self.end < stored:
            raise damaged(tail.path, end or tail.first, "the file has been cut short")
        if end is None and tail.header.in_transaction:
            if is_first:
                raise damaged(
                    tail.path, tail.first, "it goes on with a transaction whose beginning is missing"
                )
            return False
        if tail.size > (kept := end or tail.first):
            tail.truncate(kept)
        tail.sync()
        return True

    def _scan(self, stored: Position, *, is_last: bool) -> int | None:
        """The end of the last whole transaction in the tail; ``None`` if there is none."""
        tail = self.tail
        at, end = tail.first, None
        try:
            for start, record in tail.records(tail.first, tail.size):
                at = start + record.size
                messages = record.messages()
                if record.flags & DESCRIBES:
                    self.described.note(messages)
                whole = len(messages) if record.flags & WHOLE else 0
                self.trail.note(messages, whole, tail.header.publications)
                if whole:
                    end, self.end_lsn = at, record.end_lsn
        except BadRecord as error:
            # Only the last segment may end in a torn write: those before it were on the disk before it was made.
            if not is_last or (tail.number, at) < stored[:2]:
                raise damaged(tail.path, at, str(error)) from error
        return end


def first_boundary(folder: Path, numbers: Iterable[int]) -> Position | None:
    """Where the first transaction begins that the segments hold from its beginning; ``None`` if none does."""
    for number in numbers:
        segment = Segment.open(folder, number)
        try:
            if not segment.header.in_transaction:
                return Position(number, 0)
            at = segment.first
            for start, record in segment.records(at, segment.size):
                if record.flags & WHOLE:
                    lsns = [completed_lsn(message.payload) for message in record.messages()]
                    return Position(
                        number, start, 1 + next(n for n, lsn in enumerate(lsns) if lsn is not None)
                    )
                at = start + record.size
        except BadRecord as error:
            raise damaged(segment.path, at, str(error)) from error
        finally:
            segment.close()
    return None
