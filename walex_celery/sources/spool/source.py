"""What a producer with a spool reads instead of the stream: the log, which a thread of its own fills."""

from __future__ import annotations

import logging
import threading
from typing import NamedTuple

from walex_celery.errors import ConfigurationError, SpoolUnavailable
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.server import Server
from walex_celery.postgres.stream import StreamMessage
from walex_celery.postgres.timeline import Cluster
from walex_celery.settings.model import WalExSettings
from walex_celery.sources.spool.bell import Bell
from walex_celery.sources.spool.intake import Intake
from walex_celery.sources.spool.lock import FolderLock
from walex_celery.sources.spool.log import Log
from walex_celery.sources.spool.reader import Reader
from walex_celery.sources.spool.spool import Spool
from walex_celery.sources.spool.spool_id import identity_of
from walex_celery.telemetry.activity import Activity
from walex_celery.telemetry.progress import human_bytes
from walex_celery.telemetry.report import SpoolStatus

logger = logging.getLogger("walex_celery.spool.source")


class Spooled(NamedTuple):
    """Where a :class:`SpooledStream` reads.

    Attributes:
        cluster: that what follows comes from, as it was then.
        server: that the slot was last streamed from.
        created: whether the slot was made then.
    """

    cluster: Cluster
    server: Server
    created: bool


class SpooledStream:
    """A stream as :class:`~walex_celery.postgres.stream.ReplicationStream`, that reads a log.

    Args:
        spool: where the log is.
        settings: of the producer.
        standby: wait for a slot that is in use.
        streaming: set while the slot is being streamed.

    Raises:
        SlotInUse: another producer of this host has the spool.
        ConfigurationError: its folder can't be used.
    """

    def __init__(
        self, spool: Spool, settings: WalExSettings, *, standby: bool, streaming: threading.Event
    ) -> None:
        self._spool = spool
        self._slot = settings.slot
        try:
            spool.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = FolderLock(spool.folder)
            #: Of the spool in the folder: another folder's is another.
            self.identity = identity_of(spool.folder)
        except OSError as error:
            raise ConfigurationError(
                f"message_middleware: {spool!r} can't use its folder: {error.strerror}"
            ) from error
        self._bell = Bell()
        self._reader: Reader | None = None
        #: What the thread is doing that reads the slot.
        self.activity = Activity()
        self._intake = Intake(
            settings,
            self._open_log,
            max_bytes=spool.max_bytes,
            standby=standby,
            notify=self._bell.ring,
            streaming=streaming,
            activity=self.activity,
        )
        self._intake.start()

    def _open_log(self, system_identifier: int, timeline: int) -> Log:
        try:
            return Log(
                self._spool.folder,
                system_identifier=system_identifier,
                timeline=timeline,
                slot=self._slot,
                segment_bytes=self._spool.segment_bytes,
            )
        except OSError as error:
            raise SpoolUnavailable(
                f"the spool in {self._spool.folder} can't be read: {error.strerror}"
            ) from error

    def restart(self, settings: WalExSettings, confirmed: Lsn, *, timeout: float) -> Spooled | None:
        """Read from where everything up to *confirmed* is done, what describes it first.

        Args:
            settings: for the connection.
            confirmed: everything up to here is done, of what was read.
            timeout: seconds to wait for the slot to be streamed for the first time; ``None`` comes back without.

        Raises:
            WalExError: what ended the reading of the slot; SpoolError for a damaged log.
        """
        intake = self._intake
        intake.reconnect(settings)
        if intake.server is None and intake.failure is None:
            self._bell.wait(timeout)
        if intake.server is None or intake.log is None:
            if intake.failure is not None:
                raise intake.failure
            return None
        if self._reader is None:
            self._reader = Reader(intake.log)
        else:
            self._reader.acknowledge(confirmed, now=True)
            self._reader.restart()
        assert intake.cluster is not None
        system_identifier, timelines = intake.cluster
        cluster = Cluster(system_identifier, timelines.as_of(self._reader.timeline))
        return Spooled(cluster, intake.server, intake.created)

    def read(self, *, pending: bool, timeout: float) -> list[StreamMessage]:
        """The messages that are there, up to a slice; waits up to *timeout* seconds for the first.

        Raises:
            Rewound: call :meth:`restart`, once all that was read is confirmed.
            WalExError: the slot is not read any more, and all that was has been handed out.
        """
        reader = self._reader
        assert reader is not None
        messages = reader.read()
        if not messages:
            if self._intake.failure is not None and not pending:
                # Looked at before the log was, it might have ended with a last message.
                messages = reader.read()
                if not messages:
                    raise self._intake.failure
            elif timeout:
                self._bell.wait(timeout)
                messages = reader.read()
        return messages

    def read_payloads(self, *, pending: bool, timeout: float) -> list[bytes]:
        """As :meth:`read`, without the messages' positions."""
        return [message.payload for message in self.read(pending=pending, timeout=timeout)]

    @property
    def stop_at_boundary(self) -> bool:
        """Whether :meth:`read` gives nothing beyond the end of a transaction."""
        return self._reader is not None and self._reader.stop_at_boundary

    @stop_at_boundary.setter
    def stop_at_boundary(self, stop: bool) -> None:
        if self._reader is not None:
            self._reader.stop_at_boundary = stop

    def check(self) -> None:
        """Do nothing: what ends the reading of the slot is told when all that was read is processed."""

    def wake(self) -> None:
        """End a :meth:`read` that waits; callable from any thread or signal handler."""
        self._bell.ring()

    def acknowledge(self, position: int, *, now: bool) -> None:
        """Everything up to *position* is done; its room is freed. *now*: remember that at once."""
        assert self._reader is not None
        waiting = self._reader.consumed
        self._reader.acknowledge(position, now=now)
        if self._reader.consumed != waiting:
            self._intake.wake()

    @property
    def acknowledged_lsn(self) -> Lsn:
        """What :meth:`acknowledge` was last called with."""
        return self._reader.acknowledged_lsn if self._reader is not None else Lsn(0)

    @property
    def wal_end(self) -> Lsn:
        """Up to where nothing is to be processed that was not read; 0 if there is more to be read."""
        return self._reader.wal_end if self._reader is not None else Lsn(0)

    def status(self) -> SpoolStatus:
        """What it takes of the disk; callable from any thread."""
        log = self._intake.log
        size, waiting = (0, 0) if log is None else (log.size_bytes, log.waiting_bytes)
        return SpoolStatus(size, waiting, self._spool.max_bytes)

    def waiting(self) -> str:
        """How much waits to be processed, for people."""
        log = self._intake.log
        return human_bytes(log.waiting_bytes if log is not None else 0)

    def close(self) -> None:
        """End the thread, close the files and let others have the spool."""
        self._intake.stop()
        logger.info("%r: %s wait in it", self._spool, self.waiting())
        if self._reader is not None:
            self._reader.close()
        if self._intake.log is not None:
            self._intake.log.close()
        self._bell.close()
        self._lock.release()
