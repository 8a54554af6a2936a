"""One connection's way into the log: what is new is appended, what is on the disk is acknowledged."""

from __future__ import annotations

from typing import NamedTuple

from walex_celery.errors import SpoolError
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.stream import ReplicationStream, StreamMessage
from walex_celery.sources.history import GONE_BACK, OtherHistory, Search
from walex_celery.sources.spool.log import Log


class Taken(NamedTuple):
    """What was read: all messages, and those that are not in the log."""

    messages: list[StreamMessage]
    new: list[StreamMessage]


class Incoming:
    """A stream that was just started, and the log that it leads into.

    Args:
        stream: of the slot.
        log: what is in it is not taken again.
        search: of the stream, for the log's history.
    """

    def __init__(self, stream: ReplicationStream, log: Log, search: Search) -> None:
        self.stream = stream
        self.log = log
        self._search = search

    def read(self, timeout: float) -> Taken:
        """What is ready; waits up to *timeout* seconds for it.

        Raises:
            SpoolError: Postgres has gone back to an older copy.
        """
        stream = self.stream
        messages = stream.read(pending=not self.log.is_stored, timeout=timeout)
        try:
            return Taken(messages, self._search.new_of(messages, stream.wal_end))
        except OtherHistory as error:
            raise gone_back(self.log, str(error)) from error

    def settle(self) -> None:
        """Have what was read on the disk, then acknowledge it."""
        self.acknowledge(self.log.sync())

    def acknowledge(self, position: Lsn) -> None:
        """Acknowledge everything up to *position*, unless the history is not known yet to be the log's."""
        if position > self.stream.acknowledged_lsn and not self._search.landmarks:
            self.log.acknowledge(position)
            self.stream.acknowledge(position, now=True)


def gone_back(log: Log, why: str) -> SpoolError:
    """The error for a server that has other transactions than those in the log."""
    return SpoolError(
        f"{GONE_BACK}: {why}. The spool holds what it had before, up to {log.end_lsn}, so nothing is read or "
        f"acknowledged any more\n  fix: move {log.folder} away and start the producer again. It reads the slot from "
        "its own position: all that Postgres has now comes. What waits in the spool is not processed: see 'Postgres "
        "goes back to an older copy' in docs/operations/spool.md"
    )
