"""One host or several, as libpq has them: ``a,b`` with the ports ``5432`` or ``5432,5433``.

With several, libpq takes the first that accepts the connection and is what ``target_session_attrs`` asks for
(manual, section 32.1.1.3 "Specifying Multiple Hosts").
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any, Final
from urllib.parse import unquote

DEFAULT_PORT: Final = 5432
_HIGHEST_PORT: Final = 65535


def check_ports(value: Any) -> int | str:
    """One port as a number, several as libpq has them.

    Raises:
        ValueError: if one is none.

    >>> check_ports("5433"), check_ports("5432, 5433")
    (5433, '5432,5433')
    """
    ports = [_check_port(part) for part in str(value).split(",")]
    return ports[0] if len(ports) == 1 else ",".join(map(str, ports))


def _check_port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = 0
    if not 1 <= port <= _HIGHEST_PORT:
        # Not repeated: what is no number may be a password that got here.
        raise ValueError(f"must be a number from 1 to {_HIGHEST_PORT}, or several, with commas between")
    return port


def hosts_of(hostname: str, port: int | str) -> list[tuple[str, str]]:
    """Each host with its port.

    Raises:
        ValueError: there are several ports, and not one a host.

    >>> hosts_of("a,b", 5432)
    [('a', '5432'), ('b', '5432')]
    """
    hosts, ports = hostname.split(","), str(port).split(",")
    if len(ports) not in (1, len(hosts)):
        raise ValueError(f"{len(ports)} ports for {len(hosts)} hosts; give one for all of them, or one each")
    return list(zip(hosts, cycle(ports), strict=False))


def split_hosts(netloc: str) -> tuple[str | None, str | None]:
    """Hosts and ports of a URL's ``user:password@a:5432,b:5433``, as they were written.

    Not by urlsplit, which knows one host only and lowers its case: a socket's folder would be another one.

    >>> split_hosts("shop:secret@a:5433,b")
    ('a,b', '5433,5432')
    """
    found = [_split_host(part) for part in netloc.rpartition("@")[2].split(",")]
    hosts = ",".join(host for host, _ in found)
    return hosts if hosts.strip(",") else None, _join_ports([port for _, port in found])


def _split_host(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return unquote(host), rest.removeprefix(":")
    host, _, port = text.partition(":")
    return unquote(host), port


def _join_ports(ports: Sequence[str]) -> str | None:
    if not any(ports):
        return None
    return ",".join(port or str(DEFAULT_PORT) for port in ports)
