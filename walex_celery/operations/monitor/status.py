"""``walex status``: what the producers say of themselves, and what Postgres says of the slot.

Either is told without the other: a broker that is away hides the producers, a Postgres that is away the slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from psycopg2.extensions import connection as Connection

from walex_celery.app import WalEx
from walex_celery.errors import ConfigurationError, WalExError
from walex_celery.operations.remote.ask import ANSWER_SECONDS, ask
from walex_celery.postgres.connection import connect
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.slot import Slot, find_slot
from walex_celery.telemetry.report import ProducerStatus


class SlotStatus(msgspec.Struct, frozen=True):
    """The slot, as Postgres has it.

    Attributes:
        name: of the slot.
        exists: whether there is one; the rest is empty if not.
        active: whether a producer streams from it.
        active_pid: the process of Postgres that serves it.
        temporary: whether it goes with the connection.
        confirmed_flush_lsn: up to where Postgres may forget.
        restart_lsn: from where Postgres keeps WAL for it.
        lag_bytes: WAL written after ``confirmed_flush_lsn``.
        retained_bytes: WAL kept on its account.
        safe_wal_bytes: how much more may be written before it is lost; ``None`` for no limit.
        wal_status: ``reserved``, ``extended``, ``unreserved`` or ``lost``.
    """

    name: str
    exists: bool
    active: bool = False
    active_pid: int | None = None
    temporary: bool = False
    confirmed_flush_lsn: str | None = None
    restart_lsn: str | None = None
    lag_bytes: int | None = None
    retained_bytes: int | None = None
    safe_wal_bytes: int | None = None
    wal_status: str | None = None


class StatusReport(msgspec.Struct, frozen=True):
    """What ``walex status --json`` prints.

    Attributes:
        instance: its name.
        at: when it was asked.
        producers: those that answered, by node; with ``--standby`` there may be several.
        slot: as Postgres has it; ``None`` if Postgres can't be asked.
        problems: why something is missing, in words.
    """

    instance: str
    at: datetime
    producers: tuple[ProducerStatus, ...]
    slot: SlotStatus | None
    problems: tuple[str, ...]


class StatusReader:
    """Asks for the status of one instance, as often as :meth:`read` is called; a context manager."""

    def __init__(self, walex: WalEx, registered_name: str, *, timeout: float = ANSWER_SECONDS) -> None:
        self._walex = walex
        self._registered_name = registered_name
        self._timeout = timeout
        self._connection: Connection | None = None

    def __enter__(self) -> StatusReader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._disconnect()

    def read(self, *, expected: int | None = None) -> StatusReport:
        """The status now.

        Args:
            expected: so many producers are known to be there: the answers of others are not waited for.
        """
        problems: list[str] = []
        settings: SlotSettings | None = None
        name = self._registered_name
        try:
            settings = self._walex.settings.slot_settings()
            name = self._walex.settings.name
        except ConfigurationError as error:
            problems.append(f"the slot is not known here: {error}")
        slot = None
        if settings is not None:
            try:
                slot = self._read_slot(settings)
            except WalExError as error:
                problems.append(str(error))
        producers: Sequence[ProducerStatus] = ()
        try:
            producers = self._ask(name, expected, problems)
        except WalExError as error:
            problems.append(f"producers can't be asked: {error}")
        else:
            if not producers:
                problems.append(_nobody(self._timeout, slot))
        return StatusReport(name, datetime.now(UTC), tuple(producers), slot, tuple(problems))

    def _ask(self, name: str, expected: int | None, problems: list[str]) -> list[ProducerStatus]:
        found = []
        for reply in ask(self._walex.app, "status", name=name, timeout=self._timeout, limit=expected):
            if reply.answer is None:
                problems.append(f"{reply.node}: {reply.error or 'is starting'}")
                continue
            try:
                found.append(msgspec.convert(reply.answer, ProducerStatus))
            except msgspec.ValidationError as error:
                problems.append(f"{reply.node} is of another version of walex-celery: {error}")
        return found

    def _read_slot(self, settings: SlotSettings) -> SlotStatus:
        if self._connection is None:
            self._connection = connect(settings.connection)
        try:
            return _slot_status(settings.name, find_slot(self._connection, settings))
        except WalExError:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _slot_status(name: str, slot: Slot | None) -> SlotStatus:
    if slot is None:
        return SlotStatus(name, False)
    return SlotStatus(
        name,
        True,
        active=slot.is_active,
        active_pid=slot.active_pid,
        temporary=slot.temporary,
        confirmed_flush_lsn=_text(slot.confirmed_flush_lsn),
        restart_lsn=_text(slot.restart_lsn),
        lag_bytes=slot.lag_bytes,
        retained_bytes=slot.retained_bytes,
        safe_wal_bytes=slot.safe_wal_bytes,
        wal_status=slot.wal_status,
    )


def _text(lsn: Lsn | None) -> str | None:
    return None if lsn is None else str(lsn)


def _nobody(timeout: float, slot: SlotStatus | None) -> str:
    who = f"no producer answered within {timeout:g} s"
    if slot is not None and slot.active:
        return (
            f"{who}, but the slot is being read (by process {slot.active_pid} of Postgres): that producer does not "
            "reach this broker, or has worker_enable_remote_control = False"
        )
    if slot is not None and slot.exists:
        return f"{who}, and nothing reads the slot: start one with celery -A <app> walex producer"
    return f"{who}: start one with celery -A <app> walex producer"
