"""By what the history of a log is recognised: the newest landmark of what is appended."""

from __future__ import annotations

from walex_celery.postgres.stream import StreamMessage
from walex_celery.sources.history import Landmark, newest_of
from walex_celery.sources.spool.record import Header


class Trail:
    """The newest landmark of a log.

    Args:
        landmark: what its last whole transaction is, if that is known.
        opened: what begins last in it, whole or not.
    """

    def __init__(self, landmark: Landmark | None = None, opened: Landmark | None = None) -> None:
        self.landmark = landmark
        self._opened = opened

    @classmethod
    def of(cls, header: Header) -> Trail:
        """Where the segment with this *header* begins."""
        return cls(Landmark.parse(header.landmark), Landmark.parse(header.opened))

    def texts(self) -> tuple[str, str]:
        """What the header of a segment says of it, which begins here."""
        return str(self.landmark or ""), str(self._opened or "")

    def note(self, messages: list[StreamMessage], whole: int, publications: int) -> None:
        """*messages* are appended, of which the first *whole* lead up to the end of a transaction."""
        payloads = [message.payload for message in messages]
        if whole:
            newest = newest_of(payloads[:whole])
            self.landmark = self._opened if newest is None else Landmark.of(newest, publications)
        newest = newest_of(payloads[whole:])
        if newest is not None:
            self._opened = Landmark.of(newest, publications)
