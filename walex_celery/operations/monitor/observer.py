"""What only the servers know of a producer: its slot, its dead letters and, while it stands by, its broker.

A thread asks them regularly, on its own connections, so that the answers don't depend on the producer's thread: they
matter most when a handler hangs.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import Final

import psycopg2
from psycopg2.extensions import connection as Connection

from walex_celery.broker import open_link
from walex_celery.dead_letters import open_dead_letters
from walex_celery.errors import WalExError
from walex_celery.pipeline.producer import Producer
from walex_celery.postgres.connection import connect
from walex_celery.postgres.slot import Slot, find_slot
from walex_celery.telemetry.activity import Doing

logger = logging.getLogger("walex_celery.operations.watch")

#: Seconds between two checks.
INTERVAL_SECONDS: Final = 10.0
#: Seconds that a check of the broker may take.
BROKER_SECONDS: Final = 5.0
#: Seconds between two counts of the dead letters; each count opens their stores.
LETTERS_SECONDS: Final = 60.0


class Observer:
    """Checks a producer's slot and broker every :data:`INTERVAL_SECONDS`, from :meth:`start` to :meth:`stop`.

    Attributes:
        slot: at the last check; ``None`` if it failed, or there is no such slot.
        dead_letters: how many were waiting at the last count; ``None`` if they could not be counted.
        postgres_up: whether Postgres answered; ``None`` before the first check.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._stopping = threading.Event()
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None
        self.slot: Slot | None = None
        self.postgres_up: bool | None = None
        self.dead_letters: int | None = None
        self._counted_at: float | None = None
        self._broker_answers: bool | None = None

    @property
    def broker_up(self) -> bool | None:
        """Whether the broker can be reached; ``None`` if unknown. A streaming producer knows that itself."""
        if self._producer.activity.now.doing is Doing.BROKER_DOWN:
            return False
        return True if self._producer.streaming.is_set() else self._broker_answers

    def start(self) -> None:
        """Start checking, in a thread."""
        self._thread = threading.Thread(target=self._run, name="walex-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, waiting at most a second for a check in progress."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._look_at_slot()
                self._look_at_broker()
                self._count_dead_letters()
                self._stopping.wait(INTERVAL_SECONDS)
        finally:
            self._disconnect()

    def _look_at_slot(self) -> None:
        try:
            self.slot = self._ask()
            self.postgres_up = True
        except (WalExError, psycopg2.Error):
            # Only debug: this runs every few seconds, and the producer itself logs the failure.
            logger.debug("the slot can't be read", exc_info=True)
            self._disconnect()
            self.slot = None
            self.postgres_up = False

    def _ask(self) -> Slot | None:
        settings = self._producer.walex.settings.slot_settings()
        if self._connection is None:
            self._connection = connect(settings.connection)
        return find_slot(self._connection, settings)

    def _count_dead_letters(self) -> None:
        now = time.monotonic()
        if self._counted_at is not None and now - self._counted_at < LETTERS_SECONDS:
            return
        self._counted_at = now
        try:
            with open_dead_letters(self._producer.walex.settings) as letters:
                self.dead_letters = letters.count()
        except (WalExError, OSError):
            logger.debug("the dead letters can't be counted", exc_info=True)
            self.dead_letters = None

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg2.Error):
                connection.close()

    def _look_at_broker(self) -> None:
        if self._producer.streaming.is_set():
            return
        link = None
        try:
            link = open_link(self._producer.walex.app, BROKER_SECONDS)
            link.connect()
            self._broker_answers = True
        except WalExError:
            logger.debug("the broker can't be reached", exc_info=True)
            self._broker_answers = False
        finally:
            if link is not None:
                link.close()
