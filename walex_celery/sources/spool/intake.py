"""From the stream into the log, in a thread of its own: nothing that processing waits for stops it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from walex_celery.postgres import pgoutput
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.opening import Opened, Read, open_stream
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.server import Server
from walex_celery.postgres.slot import Slot
from walex_celery.postgres.stream import ReplicationStream, StreamMessage
from walex_celery.postgres.timeline import Cluster
from walex_celery.retry.loop import Retrying
from walex_celery.sources.history import GONE_BACK, Search, checksum_of
from walex_celery.sources.spool.bell import Bell
from walex_celery.sources.spool.incoming import Incoming, gone_back
from walex_celery.sources.spool.log import DiskFull, Log
from walex_celery.telemetry.activity import Activity, Doing
from walex_celery.telemetry.progress import human_bytes

logger = logging.getLogger("walex_celery.spool.intake")

#: Under load the log is synced and acknowledged this often, in seconds; when nothing more comes, at once.
SYNC_INTERVAL: Final = 1.0
#: Seconds to wait for a message.
IDLE_SECONDS: Final = 1.0
#: Seconds between looks for room.
ROOM_SECONDS: Final = 1.0


class Intake(threading.Thread):
    """Reads the slot into a log until :meth:`stop`.

    Args:
        settings: whose slot.
        open_log: called with system identifier and timeline once they are known.
        max_bytes: reading waits while the log is larger.
        reconnect_timeout: seconds of failed connects after which it gives up; ``None`` for never.
        log_interval: seconds between two warnings about the same thing.
        standby: wait for a slot that is in use.
        notify: called when there is more to be read in the log, and when the thread ends.
        streaming: set while the slot is being streamed.
        activity: where the thread reports what it is doing.

    Attributes:
        failure: what ended the thread, if that was not :meth:`stop`.
        log: once it is open.
        server: what the slot was last streamed from; ``None`` before it was.
        cluster: of that server.
        created: whether the slot was made then.
    """

    def __init__(
        self,
        settings: SlotSettings,
        open_log: Callable[[int, int], Log],
        *,
        max_bytes: int,
        reconnect_timeout: float | None,
        log_interval: float,
        standby: bool,
        notify: Callable[[], None],
        streaming: threading.Event,
        activity: Activity,
    ) -> None:
        super().__init__(name="walex-intake", daemon=True)
        self._settings = settings
        self._open_log = open_log
        self._max_bytes = max_bytes
        self._log_interval = log_interval
        self._notify = notify
        self._streaming = streaming
        self._activity = activity
        self._stopping = threading.Event()
        self._retrying = Retrying(self._stopping, reconnect_timeout, standby=standby, activity=activity)
        self._stream: ReplicationStream | None = None
        self._bell = Bell()
        self._told = 0.0
        self._read = Read()
        self.failure: BaseException | None = None
        self.log: Log | None = None
        self.created = False
        self.server: Server | None = None
        self.cluster: Cluster | None = None

    def run(self) -> None:
        """Read until stopped; what goes wrong for good is :attr:`failure`."""
        try:
            self._retrying.run(self._stream_once)
        except BaseException as error:
            self.failure = error
            if self._retrying.has_succeeded:
                about = {"slot": self._settings.name, "error": type(error).__name__}
                logger.error("nothing is read any more: %s", error, extra=about)
        finally:
            self._activity.begin(Doing.ENDED)
            self._notify()

    def stop(self) -> None:
        """End, with all that was read on the disk and acknowledged, and wait for that."""
        self._stopping.set()
        self.wake()
        self.join()
        self._bell.close()

    def wake(self) -> None:
        """Look around: there is room, or a change of mind."""
        self._bell.ring()
        stream = self._stream
        if stream is not None:
            stream.wake()

    def reconnect(self, settings: SlotSettings) -> None:
        """Go on with other *settings*, on a new connection."""
        if settings != self._settings:
            self._settings = settings
            self.wake()

    def _stream_once(self) -> None:
        """Connect and read until stopped or broken."""
        settings = self._settings
        self._activity.begin(Doing.CONNECTING)
        opened = open_stream(settings, self._read)
        stream, server, cluster, slot = opened
        try:
            log = self._open(cluster)
            with self._activity.during(Doing.CREATING_SLOT):
                self.created = slot is None and stream.create_slot() is not None
            self._compare(log, slot)
            search = self._search(log, opened)
            # What is in the log need not be sent again, unless its history is in doubt.
            stream.start(Lsn(0) if search.landmarks else log.end_lsn)
            self._stream = stream
            self._read = Read(settings.name, cluster)
            self.cluster = cluster
            self._retrying.succeeded()
            self.server = server
            self._streaming.set()
            self._notify()
            incoming = Incoming(stream, log, search)
            self._take_in(incoming, settings)
            incoming.settle()
        finally:
            self._streaming.clear()
            self._stream = None
            stream.close()

    def _open(self, cluster: Cluster) -> Log:
        timeline = cluster.timelines.current
        if self.log is None:
            self.log = self._open_log(cluster.system_identifier, timeline)
        log = self.log
        log.check_owner(cluster.system_identifier, self._settings.name)
        log.drop_open_transaction()
        log.follow(timeline, checksum_of(self._settings.publications))
        return log

    def _search(self, log: Log, opened: Opened) -> Search:
        """Check that the server can have the history of the log; returns what its stream is to be searched for.

        Raises:
            SpoolError: Postgres has gone back to an older copy.
        """
        slot, landmark = opened.slot, log.landmark
        # What describes the tables of its rows is in the log.
        search = Search(log.end_lsn, describes=False)
        if slot is None:
            return search
        comparable = landmark is not None and landmark.publications == log.publications
        # A standby server may not have replayed yet what it had before a restart.
        if slot.wal_lsn is not None and not opened.server.in_recovery:
            # What was acknowledged beyond the log's end held nothing for it, and may be lost without harm.
            known = log.end_lsn if comparable else max(log.end_lsn, log.acknowledged_lsn)
            if slot.wal_lsn < known:
                why = f"it has written up to {slot.wal_lsn}, and was read up to {known} before"
                raise gone_back(log, why)
            if slot.wal_lsn < log.acknowledged_lsn:
                logger.warning(
                    "%s: it has written up to %s, and %s was acknowledged. The spool ends before that, at %s, so it "
                    "goes on",
                    GONE_BACK,
                    slot.wal_lsn,
                    log.acknowledged_lsn,
                    log.end_lsn,
                    extra={"lsn": str(log.acknowledged_lsn), "slot": self._settings.name},
                )
        confirmed = slot.confirmed_flush_lsn
        if landmark is not None and comparable and confirmed is not None and landmark.follows(confirmed):
            search.landmarks.append(landmark)
        return search

    def _compare(self, log: Log, slot: Slot | None) -> None:
        """Warn when the slot has moved on, or was made again, without this spool."""
        if slot is None and log.end_lsn:
            logger.warning(
                "the slot was made again: what was committed after %s, the spool's end, and before now, is not in it",
                log.end_lsn,
                extra={"lsn": str(log.end_lsn), "slot": self._settings.name},
            )
        elif slot is not None and slot.confirmed_flush_lsn and log.end_lsn:
            known = max(log.end_lsn, log.acknowledged_lsn)
            if slot.confirmed_flush_lsn > known:
                logger.warning(
                    "the slot was acknowledged up to %s, and this spool only knows of %s. If another producer read the "
                    "slot meanwhile, that was it; if this host lost its power, see 'A damaged spool' in "
                    "docs/operations/spool.md",
                    slot.confirmed_flush_lsn,
                    known,
                    extra={"lsn": str(known), "slot": self._settings.name},
                )

    def _take_in(self, incoming: Incoming, settings: SlotSettings) -> None:
        stream, log = incoming.stream, incoming.log
        synced_at = time.monotonic()
        between = True
        while not self._stopping.is_set() and settings is self._settings:
            self._activity.begin(Doing.STREAMING)
            messages, new = incoming.read(0 if not log.is_stored else IDLE_SECONDS)
            if messages:
                between = pgoutput.completed_lsn(messages[-1].payload) is not None
                if new and not self._store(new, incoming):
                    return
            if not messages or stream.needs_confirmation or time.monotonic() - synced_at >= SYNC_INTERVAL:
                incoming.settle()
                synced_at = time.monotonic()
            if not messages and between and log.is_stored:
                # Promise 5: WAL that held nothing for us need not be kept.
                incoming.acknowledge(stream.wal_end)

    def _store(self, messages: list[StreamMessage], incoming: Incoming) -> bool:
        """Append *messages* once there is room; whether that was before :meth:`stop`.

        Raises:
            DiskFull: what has been stored of a transaction is in the way of its rest; it must be read again.
        """
        log = incoming.log
        size = sum(len(message.payload) for message in messages)
        count = len(messages)
        waited = False
        while messages:
            self._activity.begin(Doing.STREAMING)
            if log.size_bytes + size > self._max_bytes:
                # What is done, and not on the disk, can't be removed.
                incoming.settle()
            try:
                if log.size_bytes + size <= self._max_bytes or log.is_consumed:
                    log.append(messages[:count])
                    messages = messages[count:]
                    count = len(messages)
                    self._notify()
                    continue
                self._tell(
                    f"the spool in {log.folder} is full: {human_bytes(log.size_bytes)} of "
                    f"{human_bytes(self._max_bytes)}. Reading waits until processing has freed some, and Postgres "
                    "keeps the WAL"
                )
            except DiskFull as error:
                if log.make_room():
                    continue
                if count > 1:
                    # Less of it may fit, and processing can only free what is there whole.
                    count //= 2
                    continue
                if log.is_blocked:
                    log.drop_open_transaction()
                    log.make_room()
                    raise
                self._tell(f"{error}. Reading waits until there is some, and Postgres keeps the WAL")
            waited = True
            log.make_room()
            count = len(messages)
            # What is stored can be forgotten meanwhile.
            incoming.settle()
            if self._stopping.is_set():
                return False
            self._bell.wait(ROOM_SECONDS)
        if waited:
            logger.info("the spool in %s has room again; reading on", log.folder)
            self._told = 0.0
        elif log.size_bytes > self._max_bytes:
            self._tell(
                f"the spool in {log.folder} has {human_bytes(log.size_bytes)}, though max_bytes is "
                f"{human_bytes(self._max_bytes)}: a single transaction is larger than that"
            )
        return True

    def _tell(self, what: str) -> None:
        """Log a warning, once an interval."""
        now = time.monotonic()
        if not self._told or now - self._told >= self._log_interval:
            self._told = now
            logger.warning("%s", what, extra={"slot": self._settings.name})
