"""The replication stream: START_REPLICATION, messages in, feedback out.

Source: manual, section 54.4 "Streaming Replication Protocol".

What psycopg2 does by itself matters here. Its ``read_message()`` answers the server's keepalives with the
position last given to ``send_feedback``, and it *advances that position* to a keepalive's WAL end whenever it
is not behind the last message's start. Messages of a transaction that began early start at positions acknowledged
long ago, so while it is read, psycopg2 would acknowledge a transaction that was read before it and is not done
yet. :meth:`ReplicationStream.read` therefore stops at such a message until the producer says that nothing
committed is pending (see ``needs_confirmation``).
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import psycopg2
from psycopg2 import sql

from walex_celery._speedups import speedups
from walex_celery.errors import PostgresUnavailable, WalExError
from walex_celery.postgres.cluster import identify
from walex_celery.postgres.connection import connect_replication
from walex_celery.postgres.errors import explain_slot_error
from walex_celery.postgres.failover import enable_failover
from walex_celery.postgres.flow import GATHER_SECONDS, Flow
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.pgoutput import COMPLETING
from walex_celery.postgres.server import Server
from walex_celery.postgres.slot import create_slot
from walex_celery.postgres.slot_wait import reporting_waits
from walex_celery.postgres.stream_guard import StreamGuard
from walex_celery.postgres.timeline import Cluster

#: A slice read at once: until this many messages or bytes. The connection's lock is held for its duration.
SLICE_MESSAGES: Final = 2000
SLICE_BYTES: Final = 8 * 1024 * 1024

#: Under load an acknowledgement is sent this often, in seconds. Each costs Postgres a little time, and has the
#: next transactions confirmed one by one (see the module's docstring).
ACKNOWLEDGE_INTERVAL: Final = 1.0


class StreamMessage(NamedTuple):
    """The data of one XLogData: a pgoutput message and the WAL position it stands for."""

    payload: bytes
    lsn: int


class Slice(NamedTuple):
    """What was ready to be read.

    Attributes:
        messages: as :class:`StreamMessage`, or their payloads.
        last_start: the WAL position of the last one; 0 if there is none.
        size: bytes of them all.
        needs_confirmation: whether the last one may not be followed until all that is committed is confirmed.
    """

    messages: list[Any]
    last_start: int
    size: int
    needs_confirmation: bool


def read_slice_plainly(
    read_message: Callable[[], Any],
    message_type: type[StreamMessage] | None,
    count: int,
    size_limit: int,
    pending: bool,
    explicit: int,
    stop_at_boundary: bool,
) -> tuple[list[Any], int, int, bool]:
    """Return the fields of a :class:`Slice`; see :class:`~walex_celery._speedups.contract.ReadSlice`."""
    messages: list[Any] = []
    new_tuple = tuple.__new__
    size = lsn = 0
    for _ in range(count):
        message = read_message()
        if message is None:
            break
        payload, lsn = message.payload, message.data_start
        # tuple.__new__ costs a third of what a NamedTuple's own does: this is done for each message.
        messages.append(payload if message_type is None else new_tuple(message_type, (payload, lsn)))
        size += len(payload)
        # A Message may stand outside of transactions, complete by itself.
        if payload.startswith(COMPLETING):
            pending = True
            if stop_at_boundary:
                break
        if pending and lsn <= explicit:
            return messages, lsn, size, True
        if size > size_limit:
            break
    return messages, lsn, size, False


read_slice = speedups.read_slice(read_slice_plainly)


def _literal(text: str) -> sql.SQL:
    """*text* as a string of the replication commands' own grammar, which knows no E'' and no backslashes."""
    return sql.SQL("'" + text.replace("'", "''") + "'")


class ReplicationStream:
    """A replication connection streaming from the slot; owns the connection and the acknowledged LSN.

    One thread reads. Another, of this object, sends feedback while the first is busy (promise 6); they never
    use the connection at once.
    """

    def __init__(self, settings: SlotSettings, server: Server) -> None:
        self._settings = settings
        self._server = server
        self._lock = threading.Lock()
        self._connection = connect_replication(settings.connection)
        # Any: the stubs leave the replication cursor's methods untyped.
        self._cursor: Any = self._connection.cursor()
        self._explicit = 0
        self._last_start = 0
        self._flow = Flow()
        self._acknowledged_at = 0.0
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._closing = threading.Event()
        self._failure: WalExError | None = None
        #: No further message may be read until all that is committed has been confirmed.
        self.needs_confirmation = False
        #: Set while a transaction's end is waited for: :meth:`read` gives nothing beyond it.
        self.stop_at_boundary = False
        #: Bytes of messages read.
        self.bytes_read = 0
        self._keeper: threading.Thread | None = None
        self._guard: StreamGuard | None = None

    def identify(self) -> Cluster:
        """Which cluster this is, and its timelines."""
        return identify(self._cursor, self._settings.connection)

    def create_slot(self) -> Lsn | None:
        """Make the slot; returns where it begins, or ``None`` if a durable one exists already.

        Waits for all transactions that have written and are still open; logs which.
        """
        with reporting_waits(self._settings, self._connection.info.backend_pid):
            return create_slot(self._cursor, self._settings)

    def enable_failover(self) -> None:
        """Have standby servers keep a copy of the slot."""
        enable_failover(self._cursor, self._settings)

    def start(self, position: Lsn = Lsn(0)) -> None:  # noqa: B008 - immutable
        """Begin streaming after *position*, or after what the slot has confirmed, whichever is later.

        Raises:
            SlotInUse, SlotLost, PublicationMissing: and what else :func:`explain_slot_error` returns.
        """
        publications = sql.SQL(",").join(map(sql.Identifier, self._settings.publications))
        options = [
            ("proto_version", "1"),
            ("publication_names", publications.as_string(self._cursor)),
            ("messages", "true"),
        ]
        command = sql.SQL("START_REPLICATION SLOT {} LOGICAL {} ({})").format(
            sql.Identifier(self._settings.name),
            sql.SQL(str(position)),
            sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(name), _literal(value)) for name, value in options
            ),
        )
        interval = self._feedback_interval()
        try:
            self._cursor.start_replication_expert(command, decode=False, status_interval=interval)
        except psycopg2.Error as error:
            raise explain_slot_error(error, self._settings) from error
        self._keeper = threading.Thread(
            target=self._keep_alive, args=(interval,), name="walex-feedback", daemon=True
        )
        self._keeper.start()
        self._guard = StreamGuard(self._settings, self._give_up)
        self._guard.start()

    def _give_up(self, error: WalExError) -> None:
        """End the connection, whatever the reading thread is doing; its next :meth:`read` raises *error*."""
        with self._lock:
            self._failure = error
            self._connection.close()
        self.wake()

    def read(self, *, pending: bool, timeout: float) -> list[StreamMessage]:
        """The messages that are ready, up to a slice; waits up to *timeout* seconds for the first.

        Args:
            pending: whether a whole transaction has been read that is not confirmed yet.
            timeout: 0 returns at once.

        Raises:
            PostgresUnavailable: the connection broke.
        """
        return self._read(StreamMessage, pending, timeout)

    def read_payloads(self, *, pending: bool, timeout: float) -> list[bytes]:
        """As :meth:`read`, without the messages' positions: a producer without a middleware needs none."""
        return self._read(None, pending, timeout)

    def _read(self, message_type: type[StreamMessage] | None, pending: bool, timeout: float) -> list[Any]:
        if self._flow.is_steady and not self.needs_confirmation:
            time.sleep(GATHER_SECONDS)
        messages = self._read_slice(message_type, pending)
        if not messages and timeout > 0:
            # What has come may not be read yet: then only wake() ends the wait.
            self._wait(timeout, for_data=not self.needs_confirmation)
            messages = self._read_slice(message_type, pending)
        self._flow.note(len(messages))
        return messages

    def _read_slice(self, message_type: type[StreamMessage] | None, pending: bool) -> list[Any]:
        self.check()
        self.needs_confirmation = pending and self._last_start <= self._explicit
        if self.needs_confirmation:
            return []
        with self._lock:
            try:
                found = Slice(
                    *read_slice(
                        self._cursor.read_message,
                        message_type,
                        SLICE_MESSAGES,
                        SLICE_BYTES,
                        pending,
                        self._explicit,
                        self.stop_at_boundary,
                    )
                )
            except psycopg2.Error as error:
                raise explain_slot_error(error, self._settings) from error
            if not found.messages and self._connection.closed:
                raise PostgresUnavailable(
                    f"the connection to Postgres at {self._settings.connection.address()} broke"
                )
        if found.messages:
            self._last_start = found.last_start
        self.needs_confirmation = found.needs_confirmation
        self.bytes_read += found.size
        return found.messages

    def _wait(self, timeout: float, *, for_data: bool) -> None:
        try:
            # Not select(), which takes no descriptor above 1,023.
            poll = select.poll()
            poll.register(self._wake_reader.fileno(), select.POLLIN)
            if for_data:
                poll.register(self._connection.fileno(), select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(timeout * 1000)}
        except (psycopg2.Error, OSError, ValueError) as error:
            raise PostgresUnavailable(f"the connection to Postgres broke: {error}") from error
        if self._wake_reader.fileno() in ready:
            with suppress(BlockingIOError):
                while self._wake_reader.recv(512):
                    pass

    def check(self) -> None:
        """Check that the connection has not failed, as far as is known without reading.

        Raises:
            PostgresUnavailable: the feedback could not be sent.
        """
        if self._failure is not None:
            raise self._failure

    def wake(self) -> None:
        """End a :meth:`read` that waits; callable from any thread or signal handler."""
        # BlockingIOError: full, so it is being woken already. OSError: closed, so nothing waits.
        with suppress(OSError):
            self._wake_writer.send(b"\0")

    @property
    def wal_end(self) -> Lsn:
        """How far the server had read the WAL when it last spoke."""
        return Lsn(self._cursor.wal_end)

    @property
    def acknowledged_lsn(self) -> Lsn:
        """What :meth:`acknowledge` was last called with."""
        return Lsn(self._explicit)

    @property
    def reported_lsn(self) -> Lsn:
        """Nothing beyond this has been acknowledged, by psycopg2's own answers to keepalives either."""
        answered = self._cursor.wal_end if self._last_start <= self._explicit else 0
        return Lsn(max(self._explicit, answered))

    def acknowledge(self, position: int, *, now: bool) -> None:
        """Tell the server that everything up to *position* is done, and may be forgotten.

        Args:
            position: the end LSN of a transaction, or a WAL end when nothing is in flight.
            now: send it at once; otherwise at most every :data:`ACKNOWLEDGE_INTERVAL` seconds.

        Raises:
            PostgresUnavailable: the connection broke.
        """
        if position <= self._explicit:
            return
        moment = time.monotonic()
        if not now and moment - self._acknowledged_at < ACKNOWLEDGE_INTERVAL:
            return
        with self._lock:
            if self._failure is not None:
                raise self._failure
            try:
                self._cursor.send_feedback(
                    write_lsn=position, flush_lsn=position, apply_lsn=position, force=True
                )
            except psycopg2.Error as error:
                raise explain_slot_error(error, self._settings) from error
            self._explicit = position
        self._acknowledged_at = moment

    def _feedback_interval(self) -> float:
        timeout = self._server.wal_sender_timeout
        return min(10.0, max(1.0, timeout / 4)) if timeout else 10.0

    def _keep_alive(self, interval: float) -> None:
        """Send feedback while the reading thread is busy with a handler or the broker."""
        while not self._closing.wait(interval / 2):
            with self._lock:
                if self._closing.is_set() or self._failure is not None:
                    return
                try:
                    self._cursor.send_feedback(force=True)
                except psycopg2.Error as error:
                    self._failure = explain_slot_error(error, self._settings)
                    return

    def close(self) -> None:
        """End the stream; a temporary slot goes with it."""
        self._closing.set()
        if self._guard is not None:
            self._guard.stop()
        with self._lock:
            self._connection.close()
        if self._keeper is not None:
            self._keeper.join()
        self._wake_reader.close()
        self._wake_writer.close()
