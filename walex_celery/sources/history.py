"""Whether Postgres still has the history that was read before.

A position in the WAL means something only in one history. A promoted standby begins a new timeline, which shows it
(manual, section 25.3.6). A server whose files were replaced by an older copy (a snapshot of its disk, a file backup
that was put back without recovery) does not show it: same system identifier, same timeline, and other transactions at
positions that were passed before. START_REPLICATION begins where it is asked to "or at the slot's confirmed_flush_lsn,
whichever is greater" (manual, section 54.4): at a position of another history, it silently skips what is new. So, with
*known* for the position up to which everything is done, on each connection:

1. If the server has written less than *known*, it has gone back.
2. If the slot's ``confirmed_flush_lsn`` has reached *known*, the history is the same up to there, because no copy is
   older than what its own slot has confirmed; and nothing is skipped.
3. Otherwise positions decide nothing: after a crash the slot's is older too, because Postgres saves it only now and
   then. The stream begins where the slot stands, not at *known*, and is searched for a :class:`Landmark`: what was read
   last, known by its position, xid and commit time. Until it is found nothing is acknowledged, and what is done is
   dropped here (:class:`Newcomers`). If something after its place comes instead, or the server has read past it (a
   keepalive's WAL end), the server has gone back, and the stream is read again from the slot's position.

To begin at the landmark would cost less, but psycopg2 answers keepalives by itself with their WAL end: what the server
had skipped would be acknowledged before anything is known. What comes again is not much: Postgres saves the slot
whenever its ``restart_lsn`` advances, which under load is every 15 s.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from walex_celery.postgres import pgoutput
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.stream import StreamMessage
from walex_celery.sources.protocol import ReadAgain

#: How log lines and errors begin that report it.
GONE_BACK: Final = "Postgres has gone back to an older copy of its files"

_TEXT: Final = re.compile(r"([0-9A-F]+/[0-9A-F]+) (\d+) (-?\d+) (\d+)", re.ASCII)


class OtherHistory(ReadAgain):
    """Postgres has other transactions than those that were read before: see the module's docstring."""


class Landmark(NamedTuple):
    """A transaction, or a message outside of transactions, that tells one history from another.

    Attributes:
        lsn: where the commit record begins; of a message, where its record ends.
        xid: of the transaction; 0 for a message.
        mark: the commit's time, in microseconds since 2000-01-01 UTC; of a message, a checksum.
        publications: see :func:`checksum_of`; others may publish other transactions, so it need not come again.
    """

    lsn: Lsn
    xid: int
    mark: int
    publications: int

    @classmethod
    def of(cls, payload: bytes, publications: int) -> Landmark | None:
        """The landmark that begins with *payload*; ``None`` if none does."""
        if pgoutput.is_begin(payload) and len(payload) == pgoutput.BEGIN_LENGTH:
            lsn, microseconds, xid = pgoutput.unpack_begin(payload)
            return cls(Lsn(lsn), xid, microseconds, publications)
        if pgoutput.standalone_lsn(payload) is None:
            return None
        message = pgoutput.decode(payload)
        assert isinstance(message, pgoutput.LogicalMessage)
        return cls.of_message(message.lsn, message.prefix, message.content, publications)

    @classmethod
    def of_message(cls, lsn: int, prefix: str, content: bytes, publications: int) -> Landmark:
        """The landmark that a message outside of transactions is."""
        return cls(Lsn(lsn), 0, zlib.crc32(content, zlib.crc32(prefix.encode())), publications)

    @classmethod
    def parse(cls, text: str) -> Landmark | None:
        """The landmark whose ``str()`` is *text*; ``None`` if it is that of none.

        >>> Landmark.parse(str(Landmark(Lsn(0x16B3748), 742, 820000000000000, 77)))
        Landmark(lsn=Lsn('0/16B3748'), xid=742, mark=820000000000000, publications=77)
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            return None
        return cls(Lsn.parse(found[1]), int(found[2]), int(found[3]), int(found[4]))

    def __str__(self) -> str:
        return f"{self.lsn} {self.xid} {self.mark} {self.publications}"

    @property
    def place(self) -> tuple[int, bool]:
        """Where it stands in the order of the stream: a message comes before a commit record that begins at its end."""
        return self.lsn, self.xid != 0

    def describe(self) -> str:
        """For an error or a log line."""
        return f"transaction {self.xid} at {self.lsn}" if self.xid else f"the message at {self.lsn}"

    def follows(self, confirmed_flush_lsn: Lsn) -> bool:
        """Whether a slot that stands there sends it: it begins there or later."""
        return self.lsn >= confirmed_flush_lsn if self.xid else self.lsn > confirmed_flush_lsn


def checksum_of(publications: Iterable[str]) -> int:
    """A checksum of the publications that are read."""
    return zlib.crc32("\0".join(sorted(publications)).encode())


def newest_of(payloads: Sequence[bytes]) -> bytes | None:
    """The last of *payloads* that can be a landmark.

    It may begin a transaction that has not been read to its end: what was done before it is of its history too.
    """
    # Once a slice: from the end, where one is near unless a transaction is large.
    for payload in reversed(payloads):
        kind = payload[:1]
        if kind == b"B" or (kind == b"M" and payload[1:2] == b"\0"):
            return payload
    return None


class Search:
    """A new connection's stream: searched for landmarks, and what was done before dropped from it.

    Args:
        done: everything up to here is dropped.
        landmarks: what must be found.
        describes: keep what describes the tables of later rows (Postgres sends it once a connection).

    Attributes:
        landmarks: those not found yet; until then nothing may be acknowledged.
    """

    def __init__(self, done: int = 0, *landmarks: Landmark, describes: bool) -> None:
        self.landmarks = list(landmarks)
        self._describes = describes
        self._newcomers = Newcomers(done)

    @property
    def is_over(self) -> bool:
        """Whether everything that comes is new, and of the same history."""
        return not self.landmarks and self._newcomers.found

    def new_of(self, messages: list[StreamMessage], wal_end: int) -> list[StreamMessage]:
        """Those of *messages*, which were read next, that have not been done.

        Args:
            messages: of the stream, in order.
            wal_end: how far the server has read, of which these are the last messages.

        Raises:
            OtherHistory: a landmark is not in it.
        """
        if self.landmarks:
            for message in messages:
                self._look(message.payload)
            for landmark in self.landmarks:
                if wal_end > landmark.lsn:
                    raise OtherHistory(f"{landmark.describe()} is not in it any more")
        new = self._newcomers.of(messages)
        if not self._describes or len(new) == len(messages):
            return new
        dropped = messages[: len(messages) - len(new)]
        return [message for message in dropped if message.payload.startswith(pgoutput.DESCRIBING)] + new

    def _look(self, payload: bytes) -> None:
        here = Landmark.of(payload, 0)
        if here is None:
            return
        for landmark in list(self.landmarks):
            if here == landmark._replace(publications=0):
                self.landmarks.remove(landmark)
            elif here.place >= landmark.place:
                raise OtherHistory(f"{landmark.describe()} is not in it any more")


class Newcomers:
    """Separates what a connection sends again from what is new.

    Args:
        end_lsn: everything up to here is known.

    Attributes:
        found: whether something new has come.
    """

    def __init__(self, end_lsn: int) -> None:
        self._end_lsn = end_lsn
        self.found = False

    def of(self, messages: list[StreamMessage]) -> list[StreamMessage]:
        """Those of *messages* that are new; all after the first are, for Postgres sends in the order of commits."""
        if self.found:
            return messages
        for index, message in enumerate(messages):
            if self._is_new(message):
                self.found = True
                return messages[index:]
        return []

    def _is_new(self, message: StreamMessage) -> bool:
        """Whether a transaction begins with *message*, or it stands outside of one, and is not known."""
        final_lsn = pgoutput.started_lsn(message.payload)
        if final_lsn is not None:
            # The commit record begins there: it ends after what is known if it does not begin before that.
            return final_lsn >= self._end_lsn
        lsn = pgoutput.standalone_lsn(message.payload)
        return lsn is not None and lsn > self._end_lsn
