"""The servers of one run, nobody else's: Postgres 18, Valkey and RabbitMQ."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from kombu import Connection
from redis import Redis

from walex_celery.testing._system import processes_in
from walex_celery.testing.servers import Postgres, RabbitMQ, Valkey

#: What Valkey does with what it takes: keep it in memory, or on disk too, synced each second or at each write.
Persistence = Literal["off", "everysec", "always"]

_POSTGRES_SETTINGS = {
    # Filling a backlog is not what is measured.
    "fsync": "off",
    "autovacuum": "off",
    "max_wal_size": "32GB",
    "checkpoint_timeout": "1h",
    "shared_buffers": "512MB",
}


@dataclass(frozen=True, slots=True)
class Servers:
    """Running servers; ``valkey_url`` names a database of Valkey that may be emptied."""

    postgres: Postgres
    valkey_server: Valkey
    valkey_url: str
    rabbitmq: RabbitMQ

    def cpu_seconds(self) -> float | None:
        """CPU seconds that all of them have taken so far; ``None`` where the system does not tell (not Linux)."""
        servers = (self.postgres, self.valkey_server, self.rabbitmq)
        living = {pid for server in servers for pid in processes_in(server.folder)}
        if not living:
            return None
        # By parent too: a backend that has ended is nowhere, until the postmaster has taken note of it. Twice, because
        # it may do so after it was looked at itself, and before the backend was.
        ticks = [
            sum(taken.ticks for taken in _cpu_taken() if not living.isdisjoint((taken.pid, taken.parent)))
            for _ in range(2)
        ]
        return max(ticks) / os.sysconf("SC_CLK_TCK")

    def valkey(self) -> Redis:
        """Open a client."""
        return Redis.from_url(self.valkey_url)

    def versions(self) -> dict[str, str]:
        """The servers' versions, by name."""
        with closing(self.postgres.connect()) as opened:
            postgres = f"{opened.server_version // 10000}.{opened.server_version % 10000}"
        with self.valkey() as client:
            told = cast(Any, client.info("server"))
        with Connection(self.rabbitmq.url()) as connection:
            rabbitmq = cast(Any, connection.connection).server_properties["version"]
        valkey = told.get("valkey_version") or told["redis_version"]
        return {"Postgres": postgres, "Valkey": str(valkey), "RabbitMQ": str(rabbitmq)}


@contextmanager
def start_servers(persistence: Persistence = "off") -> Iterator[Servers]:
    """Start all three; stop them, and remove what they wrote, at the end."""
    with ExitStack() as stack:
        postgres = stack.enter_context(Postgres(settings=_POSTGRES_SETTINGS))
        valkey = stack.enter_context(
            Valkey(
                append_only=persistence != "off",
                settings={} if persistence == "off" else {"appendfsync": persistence},
            )
        )
        rabbitmq = stack.enter_context(RabbitMQ())
        yield Servers(postgres, valkey, valkey.url(0), rabbitmq)


class _Taken(NamedTuple):
    pid: int
    parent: int
    ticks: int


def _cpu_taken() -> Iterator[_Taken]:
    """What each process has taken, with what its children had when they ended (proc_pid_stat(5))."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, and its parent tells
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            yield _Taken(int(entry.name), int(fields[1]), sum(map(int, fields[11:15])))
