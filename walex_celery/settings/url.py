"""The ``url`` setting, ``postgresql://user:password@host:port/database?option=value``, and libpq's parameters in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from walex_celery.settings.hosts import check_ports, split_hosts

#: The settings that a url may give.
URL_PARTS: Final = (
    "hostname", "port", "username", "password", "database", "sslmode", "sslrootcert", "sslcert", "sslkey", "libpq"
)  # fmt: skip
#: Connection parameters that are not given by libpq's name, each with the reason.
OWN_PARAMETERS: Final = {
    "host": "set hostname=",
    "port": "set port=",
    "user": "set username=",
    "password": "set password=, which is never shown",
    "dbname": "set database=",
    **{name: f"set {name}=" for name in ("sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout")},
    "sslpassword": "it would be shown; set sslkey= to a key without a passphrase",
    "client_encoding": "values are read as UTF-8",
    "replication": "the producer opens connections with and without it",
}


def parse_url(url: str) -> dict[str, Any]:
    """The settings that a ``postgresql://`` url has.

    Raises:
        ValueError: it can't be read; the message does not repeat it, for it may hold a password.
    """
    parts = _parts_of(url)
    check_libpq(parts.get("libpq", {}))
    return parts


def _parts_of(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        hostname, ports = split_hosts(parts.netloc)
        port = None if ports is None else check_ports(ports)
    except ValueError:
        raise ValueError("not a URL; one looks like postgresql://user:password@host:5432/database") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError("must begin with postgresql://, as in postgresql://user:password@host:5432/database")
    if "@" in parts.path + parts.query + parts.fragment:
        # A password with one of these ends the host early: the rest of it would be taken for a path, and shown.
        raise ValueError("in a user, password or database write / as %2F, ? as %3F, # as %23 and @ as %40")
    path = parts.path.lstrip("/")
    if "/" in path:
        raise ValueError("what follows the host must be one database name, as in postgresql://host/database")
    # As libpq has it: a plus is a plus.
    options = {key: values[-1] for key, values in parse_qs(parts.query.replace("+", "%2B")).items()}
    found = {
        "hostname": options.pop("host", None) or hostname,
        "port": options.pop("port", None) or port,
        "username": options.pop("user", None) or (unquote(parts.username) if parts.username else None),
        "password": options.pop("password", None) or (unquote(parts.password) if parts.password else None),
        "database": options.pop("dbname", None) or unquote(path),
    }
    own = {"sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout"}
    further = {key: value for key, value in options.items() if key not in own}
    _check_none_is_own(further)
    named = {key: value for key, value in options.items() if key in own}
    return {key: value for key, value in {**found, **named, "libpq": further}.items() if value}


def without_password(url: str) -> str:
    """*url* as it may be shown: its parts except the password; ``***`` if it can't be read.

    >>> without_password("postgresql://shop:secret@db/shop?sslmode=require")
    'postgresql://shop:***@db/shop'
    """
    try:
        parts = _parts_of(url)
    except ValueError:
        return "***"
    user = f"{parts['username']}:***@" if "username" in parts else ""
    port = f":{parts['port']}" if "port" in parts else ""
    return f"postgresql://{user}{parts.get('hostname', '')}{port}/{quote(parts.get('database', ''), safe='')}"


def check_libpq(parameters: Mapping[str, str]) -> dict[str, str]:
    """*parameters* unchanged, if libpq knows them all and none is for this project alone to set.

    Raises:
        ValueError: naming those that are wrong.
    """
    _check_none_is_own(parameters)
    unknown = [name for name in parameters if not _is_libpq(name)]
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; libpq has no such connection parameter")
    return dict(parameters)


def _check_none_is_own(parameters: Mapping[str, str]) -> None:
    own = sorted(parameters.keys() & OWN_PARAMETERS)
    if own:
        raise ValueError(
            "can't be given here: " + "; ".join(f"{name} ({OWN_PARAMETERS[name]})" for name in own)
        )


def _is_libpq(parameter: str) -> bool:
    # Imported when there is a parameter to check: workers have no use for psycopg2.
    from psycopg2 import ProgrammingError
    from psycopg2.extensions import make_dsn

    try:
        make_dsn(**{parameter: "0"})
    except ProgrammingError:
        return False
    return True
