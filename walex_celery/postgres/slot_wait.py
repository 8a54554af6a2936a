"""Says for whom CREATE_REPLICATION_SLOT waits.

A slot begins where every transaction that had written before is over (manual, section 47.2): one that is left open
holds it up, without a word, for as long as it lasts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg2
from psycopg2.extensions import connection as Connection

from walex_celery.errors import WalExError
from walex_celery.postgres.connection import connect
from walex_celery.postgres.parameters import SlotSettings

logger = logging.getLogger("walex_celery.postgres.slot")

#: Seconds between looks.
LOOK_SECONDS: Final = 1.0

# The walsender waits for one transaction after another. A prepared one has no process.
_WAITED_FOR: Final = """
SELECT holder.pid, activity.usename, activity.application_name, activity.state, prepared.gid, prepared.owner,
       coalesce(activity.xact_start, prepared.prepared)::timestamptz(0)::text
FROM pg_locks waiting
JOIN pg_locks holder ON holder.transactionid = waiting.transactionid AND holder.locktype = waiting.locktype
     AND holder.granted
LEFT JOIN pg_stat_activity activity ON activity.pid = holder.pid
LEFT JOIN pg_prepared_xacts prepared ON prepared.transaction = holder.transactionid
WHERE waiting.pid = %s AND waiting.locktype = 'transactionid' AND NOT waiting.granted
"""


@contextmanager
def reporting_waits(settings: SlotSettings, pid: int) -> Iterator[None]:
    """Within, log each transaction that the walsender with *pid* waits for; once it has waited for a second."""
    ended = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(settings, pid, ended), name="walex-slot-wait", daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(settings: SlotSettings, pid: int, ended: threading.Event) -> None:
    if ended.wait(LOOK_SECONDS):
        return
    try:
        connection = connect(settings.connection)
    except WalExError as error:
        logger.info("can't look for what replication slot %r waits for: %s", settings.name, error)
        return
    try:
        _report(connection, settings.name, pid, ended)
    except psycopg2.Error as error:
        logger.info("can't look for what replication slot %r waits for: %s", settings.name, error)
    finally:
        connection.close()


def _report(connection: Connection, slot: str, pid: int, ended: threading.Event) -> None:
    logged = ""
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_WAITED_FOR, (pid,))
            row = cursor.fetchone()
        if row is not None:
            text = _waited_for(*row)
            if text != logged:
                logged = text
                logger.warning(
                    "replication slot %r waits for transactions that are still open: %s",
                    slot,
                    text,
                    extra={"slot": slot},
                )
        if ended.wait(LOOK_SECONDS):
            return


def _waited_for(
    pid: int | None,
    role: str | None,
    name: str | None,
    state: str | None,
    prepared: str | None,
    owner: str | None,
    since: str | None,
) -> str:
    begun = f" since {since}" if since else ""
    if prepared is not None:
        return (
            f"prepared transaction {prepared!r} of role {owner!r}{begun}\n"
            f"  fix: COMMIT PREPARED or ROLLBACK PREPARED {prepared!r}"
        )
    doing = f", {state}" if state else ""
    return (
        f"pid {pid}, role {role!r}, application {name!r}{doing}{begun}\n"
        f"  fix: end it, or SELECT pg_terminate_backend({pid})"
    )
