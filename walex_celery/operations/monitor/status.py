"""``walex status``: what the producers report about themselves, and what Postgres reports about the slot.

Each is shown without the other if the broker (for producers) or Postgres (for the slot) is down.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from psycopg2.extensions import connection as Connection

from walex_celery._invocation import celery_command
from walex_celery.app import WalEx
from walex_celery.errors import ConfigurationError, WalExError
from walex_celery.operations.remote.ask import ANSWER_SECONDS, ask
from walex_celery.postgres.connection import connect
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.slot import Slot, find_slot
from walex_celery.telemetry.report import ProducerStatus


class SlotStatus(msgspec.Struct, frozen=True):
    """The slot, as Postgres reports it.

    Attributes:
        name: of the slot.
        exists: whether it exists; if not, the rest is empty.
        active: whether a producer streams from it.
        active_pid: the Postgres process that serves it.
        temporary: whether it is dropped with the connection.
        confirmed_flush_lsn: the acknowledged position.
        restart_lsn: the position from which Postgres keeps WAL for it.
        lag_bytes: WAL written after ``confirmed_flush_lsn``.
        retained_bytes: WAL kept for it.
        safe_wal_bytes: how much WAL may be written before it is lost; ``None`` for no limit.
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
        at: the time of the report.
        producers: those that answered, ordered by node; with ``--standby`` there may be several.
        slot: as Postgres reports it; ``None`` if Postgres can't be reached.
        problems: why something is missing, as text.
    """

    instance: str
    at: datetime
    producers: tuple[ProducerStatus, ...]
    slot: SlotStatus | None
    problems: tuple[str, ...]


class StatusReader:
    """Reads the status of one instance, at each :meth:`read`; a context manager."""

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
            expected: how many producers are known to run; returns without waiting for more answers.
        """
        problems: list[str] = []
        settings: SlotSettings | None = None
        name = self._registered_name
        try:
            settings = self._walex.settings.slot_settings()
            name = self._walex.settings.name
        except ConfigurationError as error:
            problems.append(f"the slot is unknown: {_one_line(error)}")
        slot = None
        if settings is not None:
            try:
                slot = self._read_slot(settings)
            except WalExError as error:
                problems.append(_one_line(error))
        producers: Sequence[ProducerStatus] = ()
        try:
            producers = self._ask(name, expected, problems)
        except WalExError as error:
            problems.append(f"producers can't be reached: {_one_line(error)}")
        else:
            if not producers:
                problems.append(_no_answer(self._timeout, slot))
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
                problems.append(f"{reply.node} runs another version of walex-celery: {error}")
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _text(lsn: Lsn | None) -> str | None:
    return None if lsn is None else str(lsn)


def _no_answer(timeout: float, slot: SlotStatus | None) -> str:
    who = f"no producer answered within {timeout:g} s"
    if slot is not None and slot.active:
        return (
            f"{who}, but the slot is in use (by Postgres process {slot.active_pid}): that producer can't reach this "
            "broker, or has worker_enable_remote_control = False"
        )
    if slot is not None and slot.exists:
        return f"{who}, and the slot is not in use: start one with {celery_command()} walex producer"
    return f"{who}: start one with {celery_command()} walex producer"
