"""All that lives as long as one connection: built whole, used by the producer's loop, closed once."""

from __future__ import annotations

from collections.abc import Iterable

from walex_celery._failpoints import failpoint
from walex_celery.handlers.registry import Handler
from walex_celery.pipeline.assembler import Assembler, Chunk, new_assembler
from walex_celery.pipeline.delivery import Delivery
from walex_celery.pipeline.dispatcher import Dispatcher
from walex_celery.pipeline.planner import Planner
from walex_celery.postgres.catalog import Catalog
from walex_celery.postgres.lsn import Lsn
from walex_celery.settings.model import WalExSettings
from walex_celery.sources.protocol import ChangeStream, Slice
from walex_celery.telemetry.statistics import Statistics


class Session:
    """One stream of changes, with what decodes, plans and dispatches it: a Pipe, as sources call it.

    Args:
        stream: is not started yet; the session closes it.
        settings: in force.
        handlers: all that are registered.
        dispatcher: gets the chunks.
        delivery: brings their tasks to the broker.
        statistics: where filtered events are counted.
        before: the session before this one, if it was of the same producer: a restartable stream goes on with its
            assembler, because a middleware may still hold the rest of a transaction.
    """

    def __init__(
        self,
        stream: ChangeStream,
        settings: WalExSettings,
        handlers: Iterable[Handler],
        dispatcher: Dispatcher,
        delivery: Delivery,
        statistics: Statistics,
        before: Session | None,
    ) -> None:
        self.stream = stream
        self.is_open = False
        self.catalog = Catalog(settings.connection_settings(), settings.publication)
        self._dispatcher = dispatcher
        self._delivery = delivery
        self._planner = Planner(settings, handlers, self.catalog, statistics)
        self.assembler: Assembler
        if before is not None and before.stream.is_restartable and stream.is_restartable:
            self.assembler = before.assembler
            self.assembler.plan_by(self._planner.planning)
        else:
            self.assembler = new_assembler(self._planner.planning, restartable=stream.is_restartable)

    def start(self) -> None:
        """Start the stream after what is confirmed; makes the slot where there is none.

        Raises:
            SlotInUse, SlotLost, PublicationMissing, PostgresUnavailable: as :meth:`ChangeStream.start`.
        """
        # The relations that an assembler brings along are planned for this connection.
        self.assembler.replan()
        self.stream.start(self._delivery.confirmed_lsn)
        self.is_open = True

    @property
    def is_pending(self) -> bool:
        """Whether whole transactions have been processed that the broker has not confirmed."""
        return self.assembler.end_lsn > self._delivery.confirmed_lsn

    @property
    def acknowledged_lsn(self) -> Lsn | None:
        """Up to where Postgres may forget, as far as is known; ``None`` without a connection."""
        return (self.stream.acknowledged_lsn or None) if self.is_open else None

    def read(self, wait_seconds: float, *, to_boundary: bool) -> Slice:
        """The next slice; see :meth:`ChangeStream.read`. Waits only if there is nothing left to do."""
        pending = self.is_pending
        is_settled = not pending and not self._delivery.has_unconfirmed
        return self.stream.read(
            pending=pending,
            idle=is_settled and not self.assembler.in_transaction,
            timeout=wait_seconds if is_settled else 0,
            to_boundary=to_boundary,
        )

    def process(self, payload: bytes) -> None:
        """Process the next message."""
        chunk = self.assembler.feed(payload)
        if chunk is not None:
            self.dispatch(chunk)

    def dispatch(self, chunk: Chunk) -> None:
        """Call batch handlers and make tasks; send what is due."""
        try:
            self._dispatcher.dispatch(chunk)
        except BaseException:
            # Whatever ended it: this transaction is not done.
            self.assembler.take_back()
            raise
        if self._delivery.is_due:
            self.flush()

    def flush(self) -> None:
        """Send what was processed on its way; wait only when too much is under way already."""
        self._delivery.flush(Lsn(self.assembler.end_lsn))

    def settle(self) -> None:
        """Have everything that was processed sent and confirmed."""
        self._delivery.settle(Lsn(self.assembler.end_lsn))

    def acknowledge(self, *, now: bool) -> None:
        """Acknowledge what is confirmed; see :meth:`ChangeStream.acknowledge`."""
        self.stream.acknowledge(self._delivery.confirmed_lsn, now=now)

    def finish(self) -> None:
        """Have everything that was processed confirmed and acknowledged."""
        self.settle()
        is_news = self._delivery.confirmed_lsn > self.stream.acknowledged_lsn
        self.acknowledge(now=True)
        if is_news:
            failpoint("acknowledged")

    def replan(self, settings: WalExSettings) -> None:
        """Go by other *settings*, and by the handlers that are there by now, from the next message on."""
        self._planner.settings = settings
        self.assembler.replan()

    def close(self) -> None:
        """End the connections; what was processed can still be settled."""
        self.is_open = False
        self.stream.close()
        self.catalog.close()
