"""A hot standby server of a Postgres server, which can be promoted."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg2 import sql
from psycopg2.extensions import make_dsn

from walex_celery.testing._postgres import Postgres


class Standby(Postgres):
    """A hot standby server of *primary*: a base backup of it, streaming from a physical slot named ``standby``.

    From Postgres 17 on it synchronizes the primary's failover slots. Users and passwords are the primary's. Source:
    manual, section 26.2 "Log-Shipping Standby Servers".
    """

    #: Its physical slot on the primary, and its name in ``synchronous_standby_names``.
    slot = "standby"

    def __init__(self, primary: Postgres, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(primary._binaries, password=primary.password)
        self.primary = primary
        self.settings = {
            "port": str(self.port),
            "hot_standby": "on",
            "hot_standby_feedback": "on",
            "sync_replication_slots": "on",
            # So that a promoted server does not wait for the old primary.
            "synchronous_standby_names": "",
            "synchronized_standby_slots": "",
            "primary_slot_name": self.slot,
            **(settings or {}),
        }

    def prepare(self) -> None:
        """Make the slot and a base backup."""
        host, port = "127.0.0.1", str(self.primary.port)
        passfile = self._write(
            self.folder / "pgpass", f"{host}:{port}:*:{self.username}:{_escaped(self.password)}\n"
        )
        # With a database name, which slot synchronization needs.
        source = make_dsn(
            host=host,
            port=port,
            user=self.username,
            dbname="postgres",
            passfile=str(passfile),
            application_name=self.slot,
        )
        self.primary._execute(
            sql.SQL("SELECT pg_create_physical_replication_slot({}, true)").format(sql.Literal(self.slot))
        )
        self.run(
            self.bin_dir / "pg_basebackup",
            *("--dbname", source, "--pgdata", self.data_dir, "--slot", self.slot),
            *("--checkpoint", "fast", "--no-sync"),
        )
        self._write(self.data_dir / "standby.signal", "")
        self._configure({**self.settings, "primary_conninfo": source})

    def promote(self) -> None:
        """Promote it, which starts a new timeline, and wait until it is a primary."""
        self._execute(sql.SQL("SELECT pg_promote(true, {})").format(sql.Literal(int(self.deadline_seconds))))


def _escaped(password: str) -> str:
    return password.replace("\\", "\\\\").replace(":", "\\:")
