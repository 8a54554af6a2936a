"""Reading the log in order, and saying what of it is done."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from walex_celery.errors import SpoolError, SpoolUnavailable
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.pgoutput import completed_lsn
from walex_celery.postgres.stream import SLICE_BYTES, SLICE_MESSAGES, StreamMessage
from walex_celery.sources.protocol import ReadAgain
from walex_celery.sources.spool.log import Log
from walex_celery.sources.spool.position import Position
from walex_celery.sources.spool.record import DESCRIBES, WHOLE, BadRecord, Described
from walex_celery.sources.spool.segment import Segment, damaged


class Rewound(ReadAgain):
    """What follows can't simply be read on: have all that was read confirmed, and :meth:`Reader.restart`.

    Either the cluster was failed over, so that positions mean something else from here on, or the disk failed,
    and what was read, but is not on it, will come again.
    """


class _Handed(NamedTuple):
    """A record that was read, whose last message reaches *end_lsn*."""

    end_lsn: int
    start: Position
    after: Position


class Reader:
    """Reads a log from where it is consumed."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._handed: deque[_Handed] = deque()
        #: What :meth:`acknowledge` was last called with.
        self.acknowledged_lsn = Lsn(0)
        #: Set while a transaction's end is waited for: :meth:`read` gives nothing beyond it.
        self.stop_at_boundary = False
        self._segment = self._position()

    def _position(self) -> Segment:
        """Begin where the log is consumed."""
        log = self._log
        self._rewound = log.rewound
        self._at = at = log.consumed
        segment = Segment.open(log.folder, at.segment)
        described = Described(segment.header.described)
        reached = segment.first
        try:
            for start, record in segment.records(segment.first, at.offset):
                if record.flags & DESCRIBES:
                    described.note(record.messages())
                reached = start + record.size
            if at.skip:
                _, record = next(segment.records(at.offset, segment.file_bytes))
                described.note(record.messages()[: at.skip])
        except BadRecord as error:
            segment.close()
            raise damaged(segment.path, reached, str(error)) from error
        self._described = described.messages()
        return segment

    @property
    def timeline(self) -> int:
        """Of the cluster, where it reads."""
        return self._segment.header.timeline

    @property
    def consumed(self) -> int:
        """The segment before which everything is done, and freed."""
        return self._log.consumed.segment

    def restart(self) -> None:
        """Read from where the log is consumed again."""
        self._handed.clear()
        self._segment.close()
        self._segment = self._position()

    def read(self) -> list[StreamMessage]:
        """The messages that are there, up to a slice; what describes them comes first after a (re)start.

        Raises:
            Rewound: after which nothing can be read before :meth:`restart`.
            SpoolError: the log is damaged.
        SpoolUnavailable: the disk fails.
        """
        if self._described:
            described, self._described = self._described, []
            return described
        if self._log.rewound != self._rewound:
            raise Rewound
        messages: list[StreamMessage] = []
        try:
            self._read_into(messages)
        except (BadRecord, SpoolError) as error:
            if self._log.rewound != self._rewound:
                raise Rewound from None
            if isinstance(error, SpoolError):
                raise
            raise damaged(self._segment.path, self._at.offset, str(error)) from error
        except OSError as error:
            raise SpoolUnavailable(f"{self._segment.path} can't be read: {error.strerror}") from error
        return messages

    def _read_into(self, messages: list[StreamMessage]) -> None:
        end = self._log.end
        size = 0
        while self._at < end:
            segment = self._segment
            # A segment that is followed by another grows no more.
            limit = end.offset if segment.number == end.segment else segment.file_bytes
            for start, record in segment.records(self._at.offset or segment.first, limit):
                found = record.messages()
                messages += found[self._at.skip :] if self._at.skip else found
                size += record.size
                here, self._at = self._at, Position(segment.number, start + record.size)
                if record.flags & WHOLE:
                    self._handed.append(
                        _Handed(record.end_lsn, Position(segment.number, start, here.skip), self._at)
                    )
                    if self.stop_at_boundary:
                        return
                if len(messages) >= SLICE_MESSAGES or size >= SLICE_BYTES:
                    return
            if segment.number < end.segment and not self._go_on(bool(messages)):
                return

    def _go_on(self, found: bool) -> bool:
        """Go on with the next segment, unless it is of another timeline."""
        following = Segment.open(self._log.folder, self._segment.number + 1)
        if following.header.timeline != self.timeline:
            following.close()
            if not found:
                if not self._handed:
                    # All before it is done. A segment without a whole transaction has no other end to be done.
                    self._log.consume(Position(following.number, 0), rewound=self._rewound)
                raise Rewound
            return False
        self._segment.close()
        self._segment = following
        self._at = Position(following.number, 0)
        return True

    def acknowledge(self, position: int, *, now: bool) -> None:
        """Everything up to *position* in the WAL is done.

        Args:
            position: the end LSN of a transaction, or a later one.
            now: remember it to the transaction; otherwise to the record, which costs less.
        """
        done = None
        if self._log.rewound != self._rewound:
            # What was read may be no more; it is read, and done, again.
            self._handed.clear()
        while self._handed and self._handed[0].end_lsn <= position:
            done = self._handed.popleft().after
        if now and self._handed and position > self.acknowledged_lsn:
            done = self._within(self._handed[0], position) or done
        self.acknowledged_lsn = Lsn(position)
        if done is not None:
            self._log.consume(done, rewound=self._rewound)

    def _within(self, handed: _Handed, position: int) -> Position | None:
        """After the last message of a record that reaches *position* or less."""
        segment = Segment.open(self._log.folder, handed.start.segment)
        try:
            _, record = next(segment.records(handed.start.offset, handed.after.offset))
        except BadRecord:
            return None  # the next read() says what became of it
        finally:
            segment.close()
        done = None
        for number, message in enumerate(record.messages(), 1):
            end_lsn = completed_lsn(message.payload)
            if end_lsn is not None and end_lsn > position:
                break
            if end_lsn is not None and number > handed.start.skip:
                done = handed.start._replace(skip=number)
        return done

    @property
    def wal_end(self) -> Lsn:
        """Up to where the WAL holds nothing that was not read; 0 if there is more to be read."""
        # In this order: what is acknowledged was appended before.
        acknowledged = self._log.acknowledged_lsn
        return acknowledged if self._at >= self._log.end else Lsn(0)

    def close(self) -> None:
        """Close the file."""
        self._segment.close()
