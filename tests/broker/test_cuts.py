"""A connection that is cut and stalled at random: nothing lost, order kept (promises 1, 2 and 3)."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.broker.support import ARGSREPR, VALUE, Proxy, make_app, new_id, publishing, take_all, task_ids
from walex_celery.broker import Publisher
from walex_celery.errors import BrokerUnavailable

SECONDS = 3.0
QUEUES = ("a", "b")


@contextlib.contextmanager
def disturbing(proxy: Proxy, chance: random.Random) -> Iterator[None]:
    """Cut and stall the proxy's connections until the block ends."""
    stop = threading.Event()

    def disturb() -> None:
        while not stop.wait(chance.uniform(0.02, 0.4)):
            if chance.random() < 0.75:
                proxy.cut()
            else:
                proxy.stall()
                stop.wait(chance.choice([0.1, 1.2]))
                proxy.flow()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        proxy.flow()


def settle(publisher: Publisher, attempts: int = 200) -> None:
    """Flush and confirm until it goes well, as the producer does."""
    for _ in range(attempts):
        with contextlib.suppress(BrokerUnavailable):
            publisher.flush()
            publisher.confirm()
            return
    raise AssertionError("never confirmed")


@pytest.mark.parametrize("kind", ["valkey", "valkey exactly once", "rabbitmq"])
def test_nothing_is_lost_and_order_kept(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("amqp_url" if kind == "rabbitmq" else "redis_url")
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # pytest shows it when the test fails
    chance = random.Random(seed)
    port = urlsplit(url).port or 0
    sent: dict[str, list[str]] = {queue: [] for queue in QUEUES}
    once = {"exactly_once": True} if "once" in kind else {}
    with Proxy(port) as proxy:
        routes = {f"shop.{queue}": {"queue": queue} for queue in QUEUES}
        app = make_app(url.replace(f":{port}", f":{proxy.port}"), task_routes=routes)
        with publishing(app, timeout_seconds=1.0, **once) as publisher:
            functions = {queue: publisher.prepare(f"shop.{queue}") for queue in QUEUES}
            publisher.declare()
            if once:
                publisher.take_over("walex:position")
            with disturbing(proxy, chance):
                until = time.monotonic() + SECONDS
                position = 0
                while time.monotonic() < until:
                    for _ in range(chance.randint(1, 500)):
                        queue = chance.choice(QUEUES)
                        sent[queue].append(new_id())
                        publisher.add(functions[queue], sent[queue][-1], VALUE, ARGSREPR)
                    position += 1
                    try:
                        serial = publisher.flush(position)
                        if chance.random() < 0.5:
                            publisher.confirm(serial - chance.randint(0, 3))
                    except BrokerUnavailable:
                        settle(publisher)
            settle(publisher)
            assert publisher.unconfirmed_count == 0
    messages = take_all(url, *QUEUES)
    for queue in QUEUES:
        arrived = task_ids([message for message in messages if message["queue"] == queue])
        assert (arrived if once else list(dict.fromkeys(arrived))) == sent[queue]
