"""The servers of one run, nobody else's: Postgres 18, Valkey and RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

from kombu import Connection
from redis import Redis

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
    valkey_url: str
    rabbitmq: RabbitMQ

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
        yield Servers(postgres, valkey.url(0), rabbitmq)
