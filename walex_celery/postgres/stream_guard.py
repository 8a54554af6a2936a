"""An ordinary connection beside the stream, which learns what the stream does not tell.

**A shutdown.** Postgres ends ordinary sessions at once, and then waits for each walsender until its receiver has
confirmed everything (manual, section 54.4): for ever, while the broker is away or a handler is slow, because
feedback goes on. When this connection is ended and no other can be made, the stream is given up.

**A publication that is gone.** From Postgres 18 on the walsender passes over its changes without an error.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import psycopg2
from psycopg2.extensions import connection as Connection

from walex_celery.errors import PostgresUnavailable, PublicationMissing, WalExError
from walex_celery.postgres.connection import connect
from walex_celery.settings.model import WalExSettings

logger = logging.getLogger("walex_celery.postgres.watch")

#: Seconds between looks at the publications.
LOOK_SECONDS: Final = 10.0
#: Seconds after which a connection that could not be made is tried once more: all may have been taken just then.
AGAIN_SECONDS: Final = 1.0


class StreamGuard(threading.Thread):
    """Looks after a stream until :meth:`stop`.

    Args:
        settings: of the stream.
        give_up: called with the reason why the stream must end.
    """

    def __init__(self, settings: WalExSettings, give_up: Callable[[WalExError], None]) -> None:
        super().__init__(name="walex-watch", daemon=True)
        self._settings = settings
        self._give_up = give_up
        self._stopping = threading.Event()
        self._waker, self._wakened = socket.socketpair()
        self._publications: dict[str, int] | None = None

    def run(self) -> None:
        """Watch, on one connection after the other."""
        try:
            while not self._stopping.is_set():
                connection = self._connect()
                if connection is not None:
                    try:
                        self._watch(connection)
                    finally:
                        connection.close()
        except WalExError as error:
            if not self._stopping.is_set():
                self._give_up(error)
        finally:
            self._waker.close()
            self._wakened.close()

    def _connect(self) -> Connection | None:
        try:
            return connect(self._settings)
        except WalExError:
            self._stopping.wait(AGAIN_SECONDS)
        try:
            return None if self._stopping.is_set() else connect(self._settings)
        except PostgresUnavailable as error:
            raise PostgresUnavailable(
                f"Postgres takes no more connections ({error}): the stream ends, so as not to keep it from a shutdown"
            ) from error
        except WalExError:
            # It is there, and says no, perhaps to a password that was changed: the stream may go on nevertheless.
            self._stopping.wait(LOOK_SECONDS)
            return None

    def _watch(self, connection: Connection) -> None:
        """Until the connection ends."""
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(self._waker.fileno(), select.POLLIN)
        while not self._stopping.is_set():
            try:
                self._look(connection)
            except psycopg2.Error:
                return
            ready = poll.poll(LOOK_SECONDS * 1000)
            if any(descriptor == connection.fileno() for descriptor, _ in ready):
                # The server has something to say that was not asked: that it ends the session.
                return

    def _look(self, connection: Connection) -> None:
        names = list(self._settings.publication)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pubname, oid::bigint FROM pg_publication WHERE pubname = ANY(%s::name[])", (names,)
            )
            found = dict(cursor.fetchall())
        missing = [name for name in names if name not in found]
        if missing:
            raise PublicationMissing(
                f"publication {', '.join(map(repr, missing))} was dropped while this producer ran: what is committed "
                "until it is made again is no event\n  fix: make it again (celery -A ... walex setup), start the "
                "producer anew, and backfill what came between"
            )
        before, self._publications = self._publications or found, found
        for name in names:
            if found[name] != before[name]:
                logger.warning(
                    "publication %s was dropped and made again: what was committed in between is no event",
                    name,
                )

    def stop(self) -> None:
        """End; a connection that is just being made is not waited for."""
        self._stopping.set()
        with suppress(OSError):
            self._wakened.send(b"\0")
        if self.is_alive():
            self.join(1.0)
