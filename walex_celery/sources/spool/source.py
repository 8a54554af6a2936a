"""The spool as a source: a log on the disk, which a thread of its own fills from the slot."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from walex_celery._files import check_private, prepare_folder
from walex_celery.errors import ConfigurationError, SpoolUnavailable
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.opening import Read
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.server import Server
from walex_celery.postgres.timeline import Cluster
from walex_celery.sources.history import checksum_of
from walex_celery.sources.protocol import Pipe, Slice
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

#: Seconds to wait for the slot to be streamed for the first time, before stops and changes are looked at.
OPEN_SECONDS: Final = 1.0
#: What there may be in the folder.
OWN_FILES: Final = ("*.spool", "*.spool.tmp", "identity", "identity.new", "lock", "position", "reserve")


class OpenSpool:
    """A spool whose folder is locked, and whose log is being filled, until :meth:`close`.

    Args:
        spool: the setting.
        settings: of the slot.
        make_intake: makes the thread that fills the log.

    Raises:
        SlotInUse: another producer of this host has the spool.
        ConfigurationError: its folder can't be used.
    """

    def __init__(self, spool: Spool, settings: SlotSettings, make_intake: Callable[..., Intake]) -> None:
        self._spool = spool
        self._slot = settings.name
        self._publications = checksum_of(settings.publications)
        try:
            prepare_folder(spool.folder)
            _check_files(spool.folder)
            self._lock = FolderLock(spool.folder)
            #: Of the spool in the folder: another folder's is another.
            self.identity = identity_of(spool.folder)
        except OSError as error:
            raise ConfigurationError(
                f"message_middleware: {spool!r} can't use its folder: {error.strerror}"
            ) from error
        #: Rung when there is more to read, or something to look at.
        self.bell = Bell()
        #: What the thread that reads the slot is doing.
        self.activity = Activity()
        self.intake = make_intake(
            settings,
            self._open_log,
            max_bytes=spool.max_bytes,
            notify=self.bell.ring,
            activity=self.activity,
        )
        self.intake.start()

    def _open_log(self, system_identifier: int, timeline: int) -> Log:
        try:
            return Log(
                self._spool.folder,
                system_identifier=system_identifier,
                timeline=timeline,
                slot=self._slot,
                segment_bytes=self._spool.segment_bytes,
                publications=self._publications,
            )
        except OSError as error:
            raise SpoolUnavailable(
                f"the spool in {self._spool.folder} can't be read: {error.strerror}"
            ) from error

    def status(self) -> SpoolStatus:
        """Its size on the disk; callable from any thread."""
        log = self.intake.log
        size, waiting = (0, 0) if log is None else (log.size_bytes, log.waiting_bytes)
        return SpoolStatus(size, waiting, self._spool.max_bytes)

    def log_waiting(self) -> None:
        """Log how much is left to process."""
        logger.info("%r: %s wait in it", self._spool, human_bytes(self.status().waiting_bytes))

    def close(self) -> None:
        """End the thread, close the log and let others have the spool."""
        self.intake.stop()
        self.log_waiting()
        if self.intake.log is not None:
            self.intake.log.close()
        self.bell.close()
        self._lock.release()


def _check_files(folder: Path) -> None:
    """Check each file that a spool has, before the first is opened: a folder with anything unsafe is left as it is.

    Raises:
        OSError: one is not this user's own.
    """
    for path in folder.iterdir():
        # A disk's own folder has others too, such as lost+found.
        if any(path.match(name) for name in OWN_FILES):
            check_private(path)


class SpoolStream:
    """One pass over the log; see :class:`~walex_celery.sources.protocol.ChangeStream`."""

    is_restartable: Final = False
    #: A spool is of one history: where Postgres has gone back, it ends.
    starts_over: Final = False

    def __init__(self, spool: OpenSpool, reader: Reader, cluster: Cluster, server: Server) -> None:
        self.cluster = cluster
        self.server = server
        self.created = spool.intake.created
        self.scope = spool.identity
        self._spool = spool
        self._reader = reader

    def start(self, done: Lsn) -> None:
        """The log is read from where it is consumed, whatever *done* is."""

    def expect(self, landmark: str) -> None:
        """What is done of it is of its own history."""

    def begin(self, pipe: Pipe) -> None:
        """Log how much is left to process."""
        self._spool.log_waiting()

    def read(self, *, pending: bool, idle: bool, timeout: float, to_boundary: bool) -> Slice:
        """The payloads that are there, up to a slice.

        Raises:
            Rewound: open the source again, once all that was read is confirmed.
            WalExError: the slot is not read any more, and all that was has been handed out.
        """
        reader, intake = self._reader, self._spool.intake
        reader.stop_at_boundary = to_boundary
        self._acknowledge_idle(idle)
        messages = reader.read()
        if not messages:
            if intake.failure is not None and not pending:
                # It may have ended with a last message, after the log was looked at.
                messages = reader.read()
                if not messages:
                    raise intake.failure
            elif timeout:
                self._spool.bell.wait(timeout)
                messages = reader.read()
        if not messages:
            self._acknowledge_idle(idle)
        return Slice([message.payload for message in messages], len(messages), bool(messages))

    def _acknowledge_idle(self, idle: bool) -> None:
        if idle and self._reader.wal_end:
            self.acknowledge(self._reader.wal_end, now=True)

    @property
    def acknowledged_lsn(self) -> Lsn:
        """Everything up to here is done."""
        return self._reader.acknowledged_lsn

    @property
    def reported_lsn(self) -> Lsn:
        """What was acknowledged to Postgres is in the spool's own position."""
        return Lsn(0)

    def acknowledge(self, lsn: Lsn, *, now: bool) -> None:
        """Free the room of what is done up to *lsn*."""
        freed_before = self._reader.consumed
        self._reader.acknowledge(lsn, now=now)
        if self._reader.consumed != freed_before:
            self._spool.intake.wake()

    def close(self) -> None:
        """The log stays open: it is filled, whatever the processing does."""


class SpoolSource:
    """A spool; see :class:`~walex_celery.sources.protocol.ChangeSource`.

    Args:
        spool: the setting.
        standby: wait for a slot that is in use.
        reconnect_timeout: seconds of failed connects after which it gives up; ``None`` for never.
        log_interval: seconds between two warnings about the same thing.
        streaming: set while the slot is being streamed into the spool.
    """

    #: Its own thread waits for the slot, and its lock ends with the process that had it.
    handover_seconds: Final = 0.0

    def __init__(
        self,
        spool: Spool,
        *,
        standby: bool,
        reconnect_timeout: float | None,
        log_interval: float,
        streaming: threading.Event,
    ) -> None:
        self._spool = spool
        self._make_intake = partial(
            Intake,
            standby=standby,
            reconnect_timeout=reconnect_timeout,
            log_interval=log_interval,
            streaming=streaming,
        )
        self._open: OpenSpool | None = None
        self._reader: Reader | None = None

    @property
    def activity(self) -> Activity | None:
        """What the thread that reads the slot is doing."""
        return None if self._open is None else self._open.activity

    def open(self, settings: SlotSettings, read: Read, done: Lsn) -> SpoolStream | None:
        """Read from where everything up to *done* is done, what describes it first.

        ``None`` while the slot has not been streamed for the first time.

        Raises:
            WalExError: what ended the reading of the slot; SpoolError for a damaged log.
        """
        if self._open is None:
            self._open = OpenSpool(self._spool, settings, self._make_intake)
        intake = self._open.intake
        intake.reconnect(settings)
        if intake.server is None and intake.failure is None:
            self._open.bell.wait(OPEN_SECONDS)
        if intake.server is None or intake.log is None:
            if intake.failure is not None:
                raise intake.failure
            return None
        if self._reader is None:
            self._reader = Reader(intake.log)
        else:
            self._reader.acknowledge(done, now=True)
            self._reader.restart()
        assert intake.cluster is not None
        system_identifier, timelines = intake.cluster
        cluster = Cluster(system_identifier, timelines.as_of(self._reader.timeline))
        return SpoolStream(self._open, self._reader, cluster, intake.server)

    def wake(self) -> None:
        """End a wait."""
        if self._open is not None:
            self._open.bell.ring()

    def stored(self) -> SpoolStatus | None:
        """The spool's size on the disk."""
        return None if self._open is None else self._open.status()

    def close(self) -> None:
        """End the thread, close the files and let others have the spool."""
        if self._open is not None:
            self._open.close()
        if self._reader is not None:
            self._reader.close()
