"""The queue that a contender publishes to: emptied before, counted after, deleted at the end."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, cast

from kombu import Connection
from redis import Redis

from benchmarks.contenders import Broker
from benchmarks.servers import Servers

QUEUE = "bench"

_REAP_SECONDS = 0.05
_COUNT_DEADLINE_SECONDS = 10.0


def queue_arguments(broker: Broker) -> dict[str, str]:
    """The arguments to declare a RabbitMQ queue with."""
    return {"x-queue-type": broker}


class BenchQueue(ABC):
    """A queue named QUEUE of the broker at ``url``; it may be emptied all the time, and what was in it is counted."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._reaped = 0
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._reaper: threading.Thread | None = None

    def _start(self, *, reap: bool) -> None:
        if reap:
            self._reaper = threading.Thread(target=self._reap_on, daemon=True)
            self._reaper.start()

    def _reap_on(self) -> None:
        while not self._ended.wait(_REAP_SECONDS):
            self._reap_now()

    def _reap_now(self) -> int:
        """Empty it; 0, for that is what waits in it then."""
        with self._turn:
            self._reaped += self._reap()
        return 0

    @abstractmethod
    def _reap(self) -> int:
        """Empty it; returns how many there were."""

    @abstractmethod
    def _waiting(self) -> int:
        """How many messages are in it."""

    def count(self) -> int:
        """How many messages it got."""
        waiting = self._waiting()
        with self._turn:
            return self._reaped + waiting

    def close(self) -> None:
        """Empty it no more."""
        self._ended.set()
        if self._reaper is not None:
            self._reaper.join()

    def expect(self, count: int) -> None:
        """Wait until the queue has *count* messages (a quorum queue reports them with a delay).

        Raises:
            RuntimeError: it has another number.
        """
        deadline = time.monotonic() + _COUNT_DEADLINE_SECONDS
        while (found := self.count()) != count:
            if found > count or time.monotonic() > deadline:
                raise RuntimeError(f"{count} messages were expected in the broker, {found} are there")
            time.sleep(0.05)


class ValkeyQueue(BenchQueue):
    """A list of Valkey."""

    def __init__(self, url: str, client: Redis, *, reap: bool) -> None:
        super().__init__(url)
        self._client = client
        self._start(reap=reap)

    def _reap(self) -> int:
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.llen(QUEUE)
            pipeline.unlink(QUEUE)
            return int(pipeline.execute()[0])

    def _waiting(self) -> int:
        return int(cast(Any, self._client.llen(QUEUE)))

    def close(self) -> None:
        """Empty it."""
        super().close()
        self._client.flushdb()


class RabbitQueue(BenchQueue):
    """A queue in a virtual host of its own."""

    def __init__(self, url: str, broker: Broker, *, reap: bool) -> None:
        super().__init__(url)
        self._connection = Connection(url)
        if reap:
            # Declared now, as the contender will: purging a quorum queue during its declaration breaks the channel.
            arguments = queue_arguments(broker)
            cast(Any, self._connection.default_channel).queue_declare(
                QUEUE, durable=True, auto_delete=False, arguments=arguments
            )
        self._start(reap=reap)

    def _reap(self) -> int:
        return int(cast(Any, self._connection.default_channel).queue_purge(QUEUE))

    def _waiting(self) -> int:
        # Purged, not declared passively: a quorum queue reports its length with a delay.
        return self._reap_now()

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self._connection.release()


@contextmanager
def empty_queue(servers: Servers, broker: Broker, *, reap: bool = False) -> Iterator[BenchQueue]:
    """Offer an empty queue of the broker."""
    if broker == "valkey":
        with servers.valkey() as client:
            client.flushdb()
            with closing(ValkeyQueue(servers.valkey_url, client, reap=reap)) as valkey_queue:
                yield valkey_queue
    else:
        (url,) = servers.rabbitmq.recycle_vhosts([], 1)
        try:
            with closing(RabbitQueue(url, broker, reap=reap)) as rabbit_queue:
                yield rabbit_queue
        finally:
            servers.rabbitmq.recycle_vhosts([url], 0)
