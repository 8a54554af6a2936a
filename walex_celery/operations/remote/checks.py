"""Checks of a change that came through the broker, before it is answered: afterwards it would end the producer."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec

from walex_celery.dead_letters import store_to_write
from walex_celery.errors import ConfigurationError
from walex_celery.handlers.policies import may_dead_letter
from walex_celery.postgres.connection import connect
from walex_celery.postgres.failover import check_failover
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.server import check_prerequisites, inspect_server
from walex_celery.postgres.slot import check_slot, find_slot
from walex_celery.settings.model import WalExSettings

#: Seconds to connect to Postgres; who asked waits for the answer.
_CONNECT_SECONDS: Final = 3.0


def check_change(before: WalExSettings, after: WalExSettings, key: str) -> str:
    """Check in Postgres that the producer can go on with *after*; returns what to add to the answer.

    Args:
        before: the settings in force.
        after: those with the change.
        key: the setting that changes.

    Raises:
        SetupError, ConfigurationError: it can't, with the reason; nothing was changed.
        SlotInUse: another process reads the slot.
        PostgresUnavailable: Postgres can't be asked.
    """
    if key == "on_error":
        if may_dead_letter(after.on_error):
            store_to_write(after).close()
        return ""
    if key not in ("publication", "database", "slot_name", "durable_slot", "failover"):
        return ""
    old, new = _slot(before), _slot(after)
    moves = (old.name, old.connection.database) != (new.name, new.connection.database)
    if (moves or old.durable != new.durable) and hasattr(before.message_middleware, "change_source"):
        raise ConfigurationError(
            f"{key} can't change while the producer runs with a spool, which belongs to slot {old.name!r}\n"
            "  fix: change it where the producer reads it, give the spool another folder, and restart the producer"
        )
    _check_slot(old, new, moves=moves)
    if moves and old.durable:
        return (
            f". Slot {old.name!r} of database {old.connection.database!r} is left as it is, and keeps WAL until it is "
            f"dropped: SELECT pg_drop_replication_slot('{old.name}');"
        )
    return ""


def _slot(settings: WalExSettings) -> SlotSettings:
    found = settings.slot_settings()
    patience = min(found.connection.connect_timeout, _CONNECT_SECONDS)
    return replace(found, connection=replace(found.connection, connect_timeout=patience))


def _check_slot(old: SlotSettings, new: SlotSettings, *, moves: bool) -> None:
    connection = connect(new.connection)
    try:
        server = inspect_server(connection, new.connection)
        slot = find_slot(connection, new)
        check_failover(server, slot, new)
        if slot is not None and moves:
            check_slot(slot, new)
        elif slot is not None and old.durable:
            # This producer reads it, or the active one that it stands by for.
            check_slot(msgspec.structs.replace(slot, active_pid=None), new)
        check_prerequisites(connection, new)
    finally:
        connection.close()
