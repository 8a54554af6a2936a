"""The servers of one run, used by nothing else: Postgres 18, Valkey and RabbitMQ."""

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
        """CPU seconds that all of them have used so far; ``None`` if the system does not report it (not Linux)."""
        servers = (self.postgres, self.valkey_server, self.rabbitmq)
        living = {pid for server in servers for pid in processes_in(server.folder)}
        if not living:
            return None
        # By parent too: the time of a backend that ended counts in the postmaster, once that has reaped it. Measured
        # twice, because it may do so just between the readings of the two.
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
            info = cast(Any, client.info("server"))
        with Connection(self.rabbitmq.url()) as connection:
            rabbitmq = cast(Any, connection.connection).server_properties["version"]
        valkey = info.get("valkey_version") or info["redis_version"]
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
    """The CPU time of each process, including its ended children (proc_pid_stat(5))."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, and counts in its parent
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            yield _Taken(int(entry.name), int(fields[1]), sum(map(int, fields[11:15])))
