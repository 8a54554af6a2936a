"""Which database to connect to, and which slot to read there: all that this package needs to know.

An application's settings make these structs; so can anything else that reads a slot.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Workers make these structs too, and have no psycopg2.
    from psycopg2.extensions import connection as Connection


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionSettings:
    """A database, and how to connect to it. A dataclass, since its fields can be kept out of the repr.

    Attributes:
        hosts: a name, an address or a socket's folder, and a port. With several, libpq takes the first that is no
            standby.
        database: its name.
        user: a role with the REPLICATION attribute; ``None`` for libpq's default.
        password: of the role. Never shown.
        application_name: as ``pg_stat_activity`` shows it.
        sslmode: ``disable``, ``allow``, ``prefer``, ``require``, ``verify-ca`` or ``verify-full``.
        sslrootcert: file of the certificate authority.
        sslcert: file of the client certificate.
        sslkey: file of the client certificate's key.
        connect_timeout: seconds.
        libpq: further connection parameters, by libpq's names.
        hidden: further texts that must never be shown, such as a URL that has the password in it.
    """

    hosts: tuple[tuple[str, int], ...]
    database: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    application_name: str = "walex"
    sslmode: str | None = None
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    connect_timeout: float = 10.0
    libpq: Mapping[str, str] = field(default_factory=dict, hash=False)
    hidden: tuple[str, ...] = field(default=(), repr=False)

    @property
    def role(self) -> str:
        """The role that is connected as: :attr:`user`, or what libpq takes instead, ``PGUSER`` or the system's user."""
        return self.user or os.environ.get("PGUSER") or _system_user()

    def address(self) -> str:
        """Where the database is, as readable text without a password.

        >>> ConnectionSettings(hosts=(("db", 5432),), user="shop", password="secret", database="orders").address()
        'shop@db:5432/orders'
        """
        user = f"{self.user}@" if self.user else ""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{user}{hosts}/{self.database}"

    def secrets(self) -> list[str]:
        """What must never be shown: the password, and :attr:`hidden`."""
        return [secret for secret in (self.password, *self.hidden) if secret]


def _system_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container may have given it a number only
        return str(os.geteuid())


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotSettings:
    """A slot, and what is read through it.

    Attributes:
        connection: the database that has the slot.
        name: of the slot.
        publications: whose changes are read.
        durable: whether the slot is kept while nothing reads it; a temporary one goes with its connection.
        failover: whether standby servers keep a copy of the slot (Postgres 17 and newer).
        tables: schema and name of what the publications should have, for the CREATE PUBLICATION that an error
            suggests; empty for all tables.
        look: called every few seconds while streaming, with an ordinary connection; must not raise.
    """

    connection: ConnectionSettings
    name: str
    publications: tuple[str, ...]
    durable: bool = False
    failover: bool = False
    tables: tuple[tuple[str, str], ...] = ()
    look: Callable[[Connection], None] | None = None
