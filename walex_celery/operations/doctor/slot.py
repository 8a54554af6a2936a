"""Checks of the slot: whether it exists, is in use, and how far behind it is."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

import msgspec

from walex_celery.database.finding import Finding, Step, do, python, shell, sql
from walex_celery.database.registry import LeftOut, check
from walex_celery.database.schema import did_you_mean
from walex_celery.errors import WalExError
from walex_celery.operations.doctor.context import Context
from walex_celery.operations.doctor.error_finding import finding_of
from walex_celery.operations.doctor.services import set_parameter
from walex_celery.postgres.slot import check_slot
from walex_celery.telemetry.progress import human_bytes

#: A running producer that is further behind does not keep up.
MUCH_LAG_BYTES: Final = 1 << 30
#: The part of max_slot_wal_keep_size that should still be free.
LITTLE_LEFT: Final = 0.25

_READER = """
SELECT usename, application_name, coalesce(host(client_addr), 'a local socket') FROM pg_stat_replication
WHERE pid = %s
"""


#: Slots that may be ours, under another name.
_UNREAD = "SELECT slot_name::text FROM pg_replication_slots WHERE plugin = 'pgoutput' AND NOT active AND database = %s"


@check("the slot is durable")
def slot_kind(context: Context) -> Iterator[Finding]:
    """A temporary slot misses changes."""
    if not context.settings.durable_slot:
        yield Finding(
            "slot_kind",
            "info",
            "the slot is temporary: changes made while no producer runs are not seen",
            python("durable_slot=True"),
        )


@check("the durable slot exists")
def slot_exists(context: Context) -> Iterator[Finding]:
    """A durable slot that was not created yet, or was dropped."""
    settings = context.settings
    if settings.durable_slot and context.slot is None:
        others = [name for (name,) in context.rows(_UNREAD, [settings.database])]
        yield Finding(
            "slot_exists",
            "warning",
            f"durable slot {settings.slot!r} does not exist"
            f"{did_you_mean(map(repr, get_close_matches(settings.slot, others, n=1)))}: "
            "changes are kept only once setup or the producer creates it",
            sql(context.statements.create_slot(settings)),
        )


@check("the slot is ours and valid")
def slot_usable(context: Context) -> Iterator[Finding]:
    """A slot of another plugin, database or type, or one that Postgres invalidated."""
    slot = context.slot
    if slot is None:
        raise LeftOut
    if slot.temporary and slot.active_pid is not None and not context.settings.durable_slot:
        return  # a running producer's
    try:
        check_slot(msgspec.structs.replace(slot, active_pid=None), context.settings.slot_settings())
    except WalExError as error:
        found = finding_of("slot_usable", "error", error)
        if slot.is_lost:
            found = msgspec.structs.replace(
                found, fix=(*sql(context.statements.drop_slot(context.settings)), *_backfill(context))
            )
        yield found


def _backfill(context: Context) -> tuple[Step, ...]:
    return (
        *shell(f"{context.command} walex producer"),
        *do("Backfill what was committed between: those changes are lost to this instance"),
    )


@check("the slot waits for its first producer")
def slot_read(context: Context) -> Iterator[Finding]:
    """Who reads the slot. Postgres keeps WAL for a durable slot that is not read."""
    slot, settings = context.slot, context.settings
    if slot is None or slot.is_lost:
        raise LeftOut
    if slot.active_pid is None:
        if settings.durable_slot:
            yield Finding(
                "slot_read",
                "warning",
                f"slot {slot.name!r} is not in use: no producer is running, and Postgres keeps WAL for it",
                shell(f"{context.command} walex producer"),
            )
        return
    readers = context.rows(_READER, [slot.active_pid])
    user, name, address = readers[0] if readers else (None, None, None)
    who = f"{name!r}, role {user!r} from {address}" if name else "a session that this role may not see"
    yield Finding(
        "slot_read", "ok", f"slot {slot.name!r} is read by the backend with pid {slot.active_pid}: {who}"
    )


@check("the slot holds back little WAL")
def slot_lag(context: Context) -> Iterator[Finding]:
    """How far the slot is behind, and how close to being lost."""
    slot = context.slot
    if slot is None or slot.is_lost:
        raise LeftOut
    safe_bytes, lag_bytes = slot.safe_wal_bytes, slot.lag_bytes
    keep_bytes = int(context.parameters["max_slot_wal_keep_size"]) << 20
    doubled = set_parameter(
        context.service, "max_slot_wal_keep_size", f"{max(1, keep_bytes >> 20) * 2}MB", restart=False
    )
    catch_up = shell(f"{context.command} walex producer") if slot.active_pid is None else ()
    limit = f"max_slot_wal_keep_size is {human_bytes(keep_bytes)}"
    behind = (
        f"slot {slot.name!r} is {human_bytes(lag_bytes or 0)} behind, "
        f"and Postgres keeps {human_bytes(slot.retained_bytes or 0)} of WAL for it"
    )
    if slot.wal_status == "unreserved" or (safe_bytes is not None and safe_bytes <= 0):
        yield Finding(
            "slot_lag",
            "error",
            f"{behind}: {limit}, so it is lost at the next checkpoint",
            (*doubled, *catch_up),
        )
    elif keep_bytes > 0 and safe_bytes is not None and safe_bytes <= keep_bytes * LITTLE_LEFT:
        yield Finding(
            "slot_lag",
            "warning",
            f"{behind}: it is lost after {human_bytes(safe_bytes)} more ({limit})",
            (*doubled, *catch_up),
        )
    elif lag_bytes is not None and lag_bytes > MUCH_LAG_BYTES:
        fix = catch_up or do(
            "See in the producer's log what it is waiting for: a slow batch handler, the broker, or a long transaction"
        )
        yield Finding("slot_lag", "warning", behind, fix)


@check("the slot survives a failover, or there is no standby")
def slot_failover(context: Context) -> Iterator[Finding]:
    """A failover slot (Postgres 17) exists on the promoted standby; others are lost with the primary."""
    settings = context.settings
    if not settings.durable_slot or context.slot is None or context.connection.server_version < 170000:
        raise LeftOut
    if context.slot_counts.standbys and not context.slot.failover:
        yield Finding(
            "slot_failover",
            "warning",
            f"the server has a standby, but slot {settings.slot!r} is no failover slot: it is lost when the standby is "
            "promoted",
            (
                *python("failover=True  # the producer alters the slot when it starts"),
                *do("Set sync_replication_slots = on on the standby, and restart the producer"),
            ),
        )
