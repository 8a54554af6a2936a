"""Checks of the Postgres server, whatever the database, role or slot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from walex_celery.database.finding import Finding, do
from walex_celery.database.registry import check
from walex_celery.errors import WalLevelError
from walex_celery.operations.doctor.context import Context
from walex_celery.operations.doctor.services import set_parameter
from walex_celery.operations.setup.plan import check_wal_level
from walex_celery.postgres import server

#: Majors that the tests run against.
OLDEST_MAJOR: Final = 14
NEWEST_MAJOR: Final = 18
#: A producer that is down should be able to fall this far behind without losing its slot.
SMALLEST_KEEP_MB: Final = 1024
SHORTEST_IDLE_SECONDS: Final = 24 * 3600
SHORTEST_SENDER_TIMEOUT_MS: Final = 10_000
LONGEST_CLOCK_DIFFERENCE_SECONDS: Final = 1.0


@check("Postgres' version is supported")
def postgres_version(context: Context) -> Iterator[Finding]:
    """Majors 14 to 18 are supported."""
    major = context.connection.server_version // 10000
    if major < OLDEST_MAJOR:
        yield Finding(
            "postgres_version",
            "error",
            f"Postgres {major} is too old; {OLDEST_MAJOR} or newer is needed",
            do(f"Upgrade the server to Postgres {OLDEST_MAJOR} to {NEWEST_MAJOR}"),
        )
    elif major > NEWEST_MAJOR:
        yield Finding(
            "postgres_version",
            "info",
            f"Postgres {major} is newer than those this version was tested with ({OLDEST_MAJOR} to {NEWEST_MAJOR})",
        )


@check("the server is not a known managed service")
def managed_service(context: Context) -> Iterator[Finding]:
    """Which managed service it is: fixes then use the service's own commands and names."""
    if context.service is not None:
        yield Finding(
            "managed_service",
            "info",
            f"the server is {context.service.name}: fixes use its own commands and parameter names",
        )


@check("wal_level is logical")
def wal_level(context: Context) -> Iterator[Finding]:
    """Logical decoding is enabled."""
    try:
        check_wal_level(context.connection)
    except WalLevelError as error:
        sentence = str(error).partition("\n")[0]
        yield Finding(
            "wal_level",
            "error",
            sentence,
            set_parameter(context.service, "wal_level", "logical", restart=True),
        )


@check("there is a replication slot for the producer")
def free_slots(context: Context) -> Iterator[Finding]:
    """There is a free slot for the producer, unless it has one."""
    limit = int(context.parameters["max_replication_slots"])
    if context.slot is None and context.slot_counts.all >= limit:
        wanted = max(10, limit + 5)
        yield Finding(
            "free_slots",
            "error",
            f"all {limit} replication slots are taken (max_replication_slots), and the producer needs one",
            (
                *do(
                    "Drop an unused one (SELECT slot_name, active FROM pg_replication_slots), or allow more:"
                ),
                *set_parameter(context.service, "max_replication_slots", str(wanted), restart=True),
            ),
        )


@check("there is a WAL sender for the producer")
def free_senders(context: Context) -> Iterator[Finding]:
    """There is a free WAL sender for the producer, unless it has one."""
    limit = int(context.parameters["max_wal_senders"])
    ((used,),) = context.rows("SELECT count(*) FROM pg_stat_replication")
    streaming = context.slot is not None and context.slot.active_pid is not None
    if not streaming and used >= limit:
        yield Finding(
            "free_senders",
            "error",
            f"all {limit} WAL senders are taken (max_wal_senders), and the producer needs one",
            set_parameter(context.service, "max_wal_senders", str(max(10, limit + 5)), restart=True),
        )


@check("the WAL kept for a producer that is down has a limit, and a sufficient one")
def kept_wal(context: Context) -> Iterator[Finding]:
    """``max_slot_wal_keep_size``: without it, a durable slot can fill the disk; if too small, the slot is lost."""
    if not context.settings.durable_slot:
        return
    keep_mb = int(context.parameters["max_slot_wal_keep_size"])
    # The right value depends on the disk; this is a tenth of a small one.
    fix = set_parameter(context.service, "max_slot_wal_keep_size", "10GB", restart=False)
    if keep_mb == -1:
        yield Finding(
            "kept_wal",
            "warning",
            "max_slot_wal_keep_size is -1: while the producer is down, Postgres keeps all WAL for its slot, until the "
            "disk is full and the primary stops",
            fix,
        )
    elif keep_mb < SMALLEST_KEEP_MB:
        yield Finding(
            "kept_wal",
            "warning",
            f"max_slot_wal_keep_size is {keep_mb} MB: the slot is lost, and changes with it, as soon as the producer "
            "is that far behind",
            fix,
        )


@check("an idle slot is not invalidated early")
def idle_slot_timeout(context: Context) -> Iterator[Finding]:
    """``idle_replication_slot_timeout`` (Postgres 18) invalidates the slot of a producer that is down."""
    seconds = int(context.parameters.get("idle_replication_slot_timeout", "0"))
    if context.settings.durable_slot and 0 < seconds < SHORTEST_IDLE_SECONDS:
        yield Finding(
            "idle_slot_timeout",
            "warning",
            f"idle_replication_slot_timeout is {seconds} s: a producer that is down for longer loses its slot, and "
            "changes with it",
            set_parameter(context.service, "idle_replication_slot_timeout", "0", restart=False),
        )


@check("wal_sender_timeout is neither off nor too short")
def sender_timeout(context: Context) -> Iterator[Finding]:
    """``wal_sender_timeout``: if off, a dead host keeps the slot; if short, a pause breaks the connection."""
    milliseconds = int(context.parameters["wal_sender_timeout"])
    fix = set_parameter(context.service, "wal_sender_timeout", "60s", restart=False)
    if milliseconds == 0 and context.settings.durable_slot:
        yield Finding(
            "sender_timeout",
            "warning",
            "wal_sender_timeout is 0: if the producer's host dies, its slot stays in use and no other producer can "
            "take over until TCP gives up (hours)",
            fix,
        )
    elif 0 < milliseconds < SHORTEST_SENDER_TIMEOUT_MS:
        yield Finding(
            "sender_timeout",
            "warning",
            f"wal_sender_timeout is {milliseconds} ms: a short pause of the producer's host or the network breaks the "
            "connection",
            fix,
        )


@check("the producer is no synchronous standby")
def synchronous_standby(context: Context) -> Iterator[Finding]:
    """``synchronous_standby_names``: with ``*`` commits wait for the producer, and its handlers' for themselves."""
    wrong = server.synchronous_standby(context.connection, context.settings.connection_settings())
    if wrong is not None:
        yield Finding(
            "synchronous_standby",
            "warning",
            wrong,
            do(
                "Name the standby servers in synchronous_standby_names instead, as in 'ANY 1 (standby1, standby2)', "
                "then SELECT pg_reload_conf()"
            ),
        )


@check("the clocks of Postgres and of this host agree")
def clock(context: Context) -> Iterator[Finding]:
    """Postgres' clock against this host's: lag in seconds is the difference between the two."""
    before = context.clock()
    ((there,),) = context.rows("SELECT extract(epoch FROM clock_timestamp())::float8")
    after = context.clock()
    difference = there - (before + after) / 2
    if abs(difference) > LONGEST_CLOCK_DIFFERENCE_SECONDS + (after - before):
        direction = "ahead of" if difference > 0 else "behind"
        yield Finding(
            "clock",
            "warning",
            f"Postgres' clock is {abs(difference):.1f} s {direction} this host's: lag in seconds is off by that much",
            do("Synchronize both with NTP: timedatectl set-ntp true"),
        )
