"""What the pipeline reads from: a source, which gives one stream of changes after the other.

Three are there: the slot itself (``slot.py``), the slot through a user's middleware (``middleware.py``), and the spool
on the producer's disk (``spool/``). The pipeline does not know which one it has.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.opening import Read
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.server import Server
from walex_celery.postgres.timeline import Cluster
from walex_celery.telemetry.activity import Activity
from walex_celery.telemetry.report import SpoolStatus


class ReadAgain(Exception):
    """The stream can't simply be read on: have all that was read confirmed, then :meth:`ChangeSource.open` again."""


class Slice(NamedTuple):
    """What was ready to be read.

    Attributes:
        payloads: pgoutput messages for the pipeline to process, in order.
        message_count: messages read, whether or not they are among *payloads*: a middleware may keep some.
        is_busy: whether anything was read or processed.
        needs_confirmation: whether nothing more may be read until all that was read is confirmed.
    """

    payloads: list[bytes]
    message_count: int
    is_busy: bool
    needs_confirmation: bool = False


class Pipe(Protocol):
    """Where a stream of changes leads."""

    def process(self, payload: bytes) -> None:
        """Process the next message."""

    def settle(self) -> None:
        """Have everything that was processed confirmed by the broker."""


class ChangeStream(Protocol):
    """The changes of one connection, or of one pass over a spool.

    Attributes:
        cluster: what the changes are of.
        server: what the slot was last streamed from.
        created: whether the slot was made by :meth:`start`.
        starts_over: whether Postgres has gone back to an older copy of its files, so that what was done before says
            nothing about what follows.
        scope: what the position stored by ``exactly_once_enqueue`` is of besides the slot: a spool's id, or ``None``.
        is_restartable: whether a transaction may begin again in the middle, because an earlier connection broke there.
        acknowledged_lsn: everything up to here may be forgotten by the source, as far as is known.
        reported_lsn: nothing beyond this has been acknowledged to Postgres, in whatever way; after :meth:`close`.
    """

    @property
    def cluster(self) -> Cluster: ...  # noqa: D102 - see above
    @property
    def server(self) -> Server: ...  # noqa: D102
    @property
    def created(self) -> bool: ...  # noqa: D102
    @property
    def starts_over(self) -> bool: ...  # noqa: D102
    @property
    def scope(self) -> str | None: ...  # noqa: D102
    @property
    def is_restartable(self) -> bool: ...  # noqa: D102
    @property
    def acknowledged_lsn(self) -> Lsn: ...  # noqa: D102
    @property
    def reported_lsn(self) -> Lsn: ...  # noqa: D102

    def start(self, done: Lsn) -> None:
        """Begin to stream what follows *done*; makes the slot where there is none.

        Raises:
            SlotInUse, SlotLost, PublicationMissing, PostgresUnavailable: see :mod:`walex_celery.errors`.
        """

    def expect(self, landmark: str) -> None:
        """Check that what was done up to a landmark is of the history that follows; after :meth:`start`.

        Nothing is acknowledged before it has come. If it does not, :meth:`read` raises ReadAgain.

        Args:
            landmark: the text of a :class:`~walex_celery.sources.history.Landmark`; any other text is ignored.
        """

    def begin(self, pipe: Pipe) -> None:
        """Reading begins; what a middleware hands on goes into *pipe*."""

    def read(self, *, pending: bool, idle: bool, timeout: float, to_boundary: bool) -> Slice:
        """The messages that are ready; waits up to *timeout* seconds for the first.

        Args:
            pending: whether a whole transaction has been read that is not confirmed yet.
            idle: whether nothing that was read is left to do, and no transaction is open: then WAL that held nothing
                for us is acknowledged (promise 5).
            timeout: in seconds; 0 returns at once.
            to_boundary: read nothing beyond the end of a transaction.

        Raises:
            PostgresUnavailable: the connection broke.
            ReadAgain: see there.
        """

    def acknowledge(self, lsn: Lsn, *, now: bool) -> None:
        """Everything up to *lsn* is done, and need not come again.

        Args:
            lsn: the end of a transaction.
            now: say so at once; otherwise when it costs little.

        Raises:
            PostgresUnavailable: the connection is known to have broken.
        """

    def close(self) -> None:
        """End the connection."""


class ChangeSource(Protocol):
    """Gives streams of changes, one at a time; lives as long as a producer runs.

    Attributes:
        activity: what a thread of the source's own is doing; ``None`` without one.
        handover_seconds: how long a slot may be in use at the start, before that is an error.
    """

    @property
    def activity(self) -> Activity | None: ...  # noqa: D102 - see above
    @property
    def handover_seconds(self) -> float: ...  # noqa: D102

    def open(self, settings: SlotSettings, read: Read, done: Lsn) -> ChangeStream | None:
        """Connect, and check all that must be right before a slot is touched; ``None``: nothing yet, ask again.

        Args:
            settings: whose slot.
            read: what this producer has streamed before.
            done: everything up to here is done, of what was read before.

        Raises:
            ConfigurationError, SetupError, SlotInUse, PostgresUnavailable: see :mod:`walex_celery.errors`.
        """

    def wake(self) -> None:
        """End a wait of :meth:`open` or :meth:`ChangeStream.read`; callable from any thread or signal handler."""

    def stored(self) -> SpoolStatus | None:
        """What it keeps on the disk; ``None`` if nothing."""

    def close(self) -> None:
        """End for good."""
