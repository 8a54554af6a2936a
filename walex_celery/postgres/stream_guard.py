"""An ordinary connection beside the stream, which learns what the stream does not say.

**A shutdown.** Postgres ends ordinary sessions at once, and then waits for each walsender until its receiver has
confirmed everything (manual, section 54.4). While the broker is down or a handler is slow it would wait for ever,
because feedback goes on. When this connection ends and no other can be made, the stream is given up.

**A publication that is gone.** From Postgres 18 on, the walsender skips its changes without an error.

**Whatever else is looked for.** ``SlotSettings.look`` is called with this connection at each look.
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

from walex_celery._invocation import celery_command
from walex_celery.errors import PostgresUnavailable, PublicationMissing, WalExError
from walex_celery.postgres.connection import connect
from walex_celery.postgres.parameters import SlotSettings

logger = logging.getLogger("walex_celery.postgres.watch")

#: Seconds between looks at the publications.
LOOK_SECONDS: Final = 10.0
#: Seconds after which a failed connection is tried once more: all connections may have been taken at that moment.
AGAIN_SECONDS: Final = 1.0


class StreamGuard(threading.Thread):
    """Watches over a stream until :meth:`stop`.

    Args:
        settings: of the stream.
        give_up: called with the reason why the stream must end.
    """

    def __init__(self, settings: SlotSettings, give_up: Callable[[WalExError], None]) -> None:
        super().__init__(name="walex-watch", daemon=True)
        self._settings = settings
        self._give_up = give_up
        self._stopping = threading.Event()
        self._waker, self._wakened = socket.socketpair()
        self._publications: dict[str, int] | None = None

    def run(self) -> None:
        """Watch, on one connection after another."""
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
            return connect(self._settings.connection)
        except WalExError:
            self._stopping.wait(AGAIN_SECONDS)
        try:
            return None if self._stopping.is_set() else connect(self._settings.connection)
        except PostgresUnavailable as error:
            raise PostgresUnavailable(
                f"Postgres takes no more connections ({error}): the stream ends, so that it does not block a shutdown"
            ) from error
        except WalExError:
            # Postgres is up and refuses, perhaps because a password was changed: the stream may go on.
            self._stopping.wait(LOOK_SECONDS)
            return None

    def _watch(self, connection: Connection) -> None:
        """Watch until the connection ends."""
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
                # The server sent something unasked: it ends the session.
                return

    def _look(self, connection: Connection) -> None:
        names = list(self._settings.publications)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pubname, oid::bigint FROM pg_publication WHERE pubname = ANY(%s::name[])", (names,)
            )
            found = dict(cursor.fetchall())
        missing = [name for name in names if name not in found]
        if missing:
            raise PublicationMissing(
                f"publication {', '.join(map(repr, missing))} was dropped while this producer ran: what is committed "
                f"until it is made again makes no events\n  fix: make it again ({celery_command()} walex setup), start "
                "the producer again, and backfill what came between"
            )
        before, self._publications = self._publications or found, found
        for name in names:
            if found[name] != before[name]:
                logger.warning(
                    "publication %s was dropped and made again: what was committed in between makes no events",
                    name,
                )
        if self._settings.look is not None:
            self._settings.look(connection)

    def stop(self) -> None:
        """Stop; a connection that is being made at the moment is not waited for."""
        self._stopping.set()
        with suppress(OSError):
            self._wakened.send(b"\0")
        if self.is_alive():
            self.join(1.0)
