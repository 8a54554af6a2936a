"""``walex where``: finds the change that caused a task, from the task's id."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import psycopg2
from celery import Celery

from walex_celery.app import WalEx
from walex_celery.errors import ConfigurationError, WalExError
from walex_celery.events.task_id import TaskPosition, function_digest, parse_task_id, timeline_salt
from walex_celery.handlers.registry import Handler, resolve_functions
from walex_celery.postgres.cluster import identify
from walex_celery.postgres.connection import connect, connect_replication
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.slot import find_slot


class Origin(msgspec.Struct, frozen=True):
    """Where a task comes from. What is unknown is ``None``, and ``notes`` say why.

    Attributes:
        task_id: as given.
        lsn: of the transaction's commit record.
        index: of the event in its transaction, from 0.
        instance: the name of the WalEx.
        function: the task's name.
        tables: the tables whose handlers enqueue the function, one of which caused the task (``all`` for any).
        acknowledged: whether the slot is past it; if not, it is sent again after a restart.
        xid: of the transaction.
        committed: the description of the commit record in the WAL.
        notes: what is unknown, and why.
    """

    task_id: str
    lsn: str
    index: int
    instance: str | None = None
    function: str | None = None
    tables: tuple[str, ...] = ()
    acknowledged: bool | None = None
    xid: int | None = None
    committed: str | None = None
    notes: tuple[str, ...] = ()


def find_origin(app: Celery, candidates: dict[str, WalEx], task_id: str) -> Origin:
    """Decode *task_id*, and look up the rest in Postgres.

    Args:
        app: the application that the task may belong to.
        candidates: the instances that may have enqueued it, by name.
        task_id: of a task that a producer enqueued.

    Raises:
        ConfigurationError: it is not the id of such a task.
    """
    try:
        position = parse_task_id(task_id.strip())
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    found = Origin(task_id.strip(), str(position.lsn), position.index)
    notes: list[str] = []
    for walex in candidates.values():
        try:
            match = _match(app, walex, position)
        except WalExError as error:
            notes.append(str(error))
            continue
        if match is not None:
            return msgspec.structs.replace(found, **match)
    notes.append(
        "none of the functions registered here has this id's digest: the handler was removed or renamed, or the id "
        "belongs to another application, instance or Postgres cluster"
    )
    return msgspec.structs.replace(found, notes=tuple(notes))


def _match(app: Celery, walex: WalEx, position: TaskPosition) -> dict[str, Any] | None:
    settings = walex.settings
    walex.import_modules()
    slot = settings.slot_settings()
    connection = connect_replication(slot.connection)
    try:
        cluster = identify(connection.cursor(), slot.connection)
    finally:
        connection.close()
    handlers: dict[str, list[Handler]] = {}
    for handler in walex.handlers:
        for function in resolve_functions(app, handler):
            name = function if isinstance(function, str) else str(function.name)
            handlers.setdefault(name, []).append(handler)
    # On any timeline: an old primary may have written it after the switch.
    timelines = [cluster.timelines.current, *(switch.timeline for switch in cluster.timelines.switches)]
    digests = {position.digest ^ timeline_salt(timeline) for timeline in timelines}
    for name, enqueuing in handlers.items():
        if function_digest(cluster.system_identifier, settings.name, name) in digests:
            tables = dict.fromkeys(str(handler.table or handler.prefix or "all") for handler in enqueuing)
            return {
                "instance": settings.name,
                "function": name,
                "tables": tuple(tables),
                **_ask_postgres(slot, position.lsn),
            }
    return None


def _ask_postgres(settings: SlotSettings, lsn: Lsn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with suppress(WalExError):
        connection = connect(settings.connection)
        try:
            slot = find_slot(connection, settings)
            if slot is not None and slot.confirmed_flush_lsn is not None:
                found["acknowledged"] = slot.confirmed_flush_lsn > lsn
            found |= _look_into_wal(connection, lsn)
        finally:
            connection.close()
    return found


def _look_into_wal(connection: Any, lsn: Lsn) -> dict[str, Any]:
    """What ``pg_walinspect`` (manual, section F.37) says about the commit record, if the WAL is still kept."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
            " WHERE extname = 'pg_walinspect'"
        )
        row = cursor.fetchone()
        if row is None:
            return {
                "notes": (
                    "with CREATE EXTENSION pg_walinspect in this database, the transaction's xid and commit time are "
                    "shown too, as long as Postgres keeps that WAL",
                )
            }
        schema = '"' + row[0].replace('"', '""') + '"'
        try:
            cursor.execute(
                f"SELECT xid::text::bigint, description FROM {schema}.pg_get_wal_record_info(%s) "
                "WHERE record_type LIKE 'COMMIT%%'",
                (str(lsn),),
            )
            record = cursor.fetchone()
        except psycopg2.Error as error:
            return {"notes": (f"pg_walinspect failed: {str(error).splitlines()[0]}",)}
    if record is None:
        return {"notes": ("the WAL has no commit at that position: this may be another timeline",)}
    return {"xid": int(record[0]), "committed": str(record[1]).partition(";")[0]}
