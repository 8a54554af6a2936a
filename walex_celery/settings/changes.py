"""How settings change while the producer runs: which may, and what the new ones are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import SecretStr, ValidationError

from walex_celery.errors import ConfigurationError
from walex_celery.filters import Table
from walex_celery.settings.model import WalExSettings, check_subscriptions, describe
from walex_celery.settings.url import URL_PARTS, parse_url

#: What add_config and remove_config may change, and what only replace_config may.
LIST_KEYS: Final = frozenset({"subscriptions", "modules", "publication"})
CONNECTION_KEYS: Final = frozenset(
    {
        "url", "hostname", "port", "username", "password", "database",
        "sslmode", "sslrootcert", "sslcert", "sslkey", "libpq", "publication", "durable_slot", "slot_name",
        "failover",
    }
)  # fmt: skip
#: Those that decide which slot of which server is read.
PLACE_KEYS: Final = frozenset({"hostname", "port", "database", "durable_slot", "slot_name", "libpq"})
REPLACE_KEYS: Final = LIST_KEYS | CONNECTION_KEYS | {"message_middleware", "on_error", "dead_letters"}


def changed(settings: WalExSettings, action: str, key: str, value: Any) -> WalExSettings:
    """*settings* after ``add``, ``remove`` or ``replace`` of *key*.

    Raises:
        ConfigurationError: for a key that can't be changed this way, or a wrong value.
    """
    allowed = REPLACE_KEYS if action == "replace" else LIST_KEYS
    if key not in allowed:
        raise ConfigurationError(
            f"{action}_config can't change {key!r} while the producer runs; it takes {', '.join(sorted(allowed))}"
        )
    current = {name: getattr(settings, name) for name in WalExSettings.model_fields}
    if key == "url":
        # The whole: what the new one leaves out is not taken from the old one.
        current |= {**dict.fromkeys(URL_PARTS), **_parts_of_url(value)}
    elif key in CONNECTION_KEYS:
        # The url was split into its parts at the start; kept beside them it would override the new value.
        current["url"] = None
    if action != "replace":
        value = _list_after(action, key, current.get(key, ()), value)
    current[key] = value
    return _checked(current)


def _list_after(action: str, key: str, before: Sequence[Any], value: Any) -> list[Any]:
    """The list *before* with *value*, one entry or several, added or removed."""
    # A Table is a tuple, and one entry.
    several = isinstance(value, list | tuple | set) and not isinstance(value, Table)
    entries: Sequence[Any] = list(value) if several else [value]
    if key == "subscriptions":
        entries = check_subscriptions(entries)
    if action == "add":
        return [*before, *(entry for entry in entries if entry not in before)]
    return [entry for entry in before if entry not in entries]


def _checked(values: Mapping[str, Any]) -> WalExSettings:
    try:
        return WalExSettings(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError(describe(error)) from None


def _parts_of_url(url: Any) -> dict[str, Any]:
    try:
        return parse_url(url.get_secret_value() if isinstance(url, SecretStr) else str(url))
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


class Reloaded(NamedTuple):
    """The outcome of reading the settings again.

    Attributes:
        settings: the ones in force now.
        changed: the names of those that have other values than before.
        needs_restart: the names of those that have changed too, but can't change while the producer runs.
    """

    settings: WalExSettings
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


def reloaded(current: WalExSettings, before: WalExSettings, now: WalExSettings) -> Reloaded:
    """*current* with the values that differ between *before* and *now*; changes made while running stay.

    Args:
        current: in force.
        before: as their sources last gave them.
        now: as their sources give them now.

    Raises:
        ConfigurationError: they contradict each other.
    """
    different = [
        name
        for name in WalExSettings.model_fields
        if name != "url" and getattr(before, name) != getattr(now, name)
    ]
    replaceable = REPLACE_KEYS - {"message_middleware"}
    names = tuple(name for name in different if name in replaceable)
    values = {name: getattr(current, name) for name in WalExSettings.model_fields}
    values |= {name: getattr(now, name) for name in names}
    if CONNECTION_KEYS.intersection(names):
        # It was split into its parts at the start; kept beside them it would override the new values.
        values["url"] = None
    settings = _checked(values)
    return Reloaded(settings, names, tuple(name for name in different if name not in replaceable))
