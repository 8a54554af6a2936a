"""The queue that a contender publishes to: empty before, counted after, gone at the end."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from amqp.exceptions import NotFound
from kombu import Connection
from redis import Redis

from benchmarks.contenders import Broker
from benchmarks.servers import Servers

QUEUE = "bench"

_REAP_SECONDS = 0.05
_COUNT_DEADLINE_SECONDS = 10.0


class BenchQueue(ABC):
    """A queue named QUEUE of the broker at ``url``."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def count(self) -> int:
        """How many messages it got."""

    def expect(self, count: int) -> None:
        """Return when the queue has *count* messages (a quorum queue tells of them a little later).

        Raises:
            RuntimeError: it has another number.
        """
        deadline = time.monotonic() + _COUNT_DEADLINE_SECONDS
        while (found := self.count()) != count:
            if found > count or time.monotonic() > deadline:
                raise RuntimeError(f"{count} messages were expected in the broker, {found} are there")
            time.sleep(0.05)


class ValkeyQueue(BenchQueue):
    """A list of Valkey; with *reap* it is emptied all the time, and what was in it is counted."""

    def __init__(self, url: str, client: Redis, *, reap: bool) -> None:
        super().__init__(url)
        self._client = client
        self._reaped = 0
        self._ended = threading.Event()
        self._reaper = threading.Thread(target=self._reap_on, daemon=True) if reap else None
        if self._reaper is not None:
            self._reaper.start()

    def _reap_on(self) -> None:
        while not self._ended.wait(_REAP_SECONDS):
            self._reap()

    def _reap(self) -> None:
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.llen(QUEUE)
            pipeline.unlink(QUEUE)
            self._reaped += pipeline.execute()[0]

    def count(self) -> int:
        """How many messages it got."""
        return self._reaped + int(cast(Any, self._client.llen(QUEUE)))

    def close(self) -> None:
        """Empty it."""
        self._ended.set()
        if self._reaper is not None:
            self._reaper.join()
        self._client.flushdb()


class RabbitQueue(BenchQueue):
    """A queue in a virtual host of its own."""

    def count(self) -> int:
        """How many messages it has."""
        with Connection(self.url) as connection:
            channel = cast(Any, connection.default_channel)
            try:
                return int(channel.queue_declare(QUEUE, passive=True).message_count)
            except NotFound:
                return 0


@contextmanager
def empty_queue(servers: Servers, broker: Broker, *, reap: bool = False) -> Iterator[BenchQueue]:
    """Offer an empty queue of the broker."""
    if broker == "valkey":
        with servers.valkey() as client:
            client.flushdb()
            queue = ValkeyQueue(servers.valkey_url, client, reap=reap)
            try:
                yield queue
            finally:
                queue.close()
    else:
        (url,) = servers.rabbitmq.recycle_vhosts([], 1)
        try:
            yield RabbitQueue(url)
        finally:
            servers.rabbitmq.recycle_vhosts([url], 0)
