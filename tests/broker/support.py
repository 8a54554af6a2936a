"""What the broker tests share: apps that leave no trace, and reading what really lies in a broker."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from celery import Celery
from kombu import Connection

from walex_celery.broker import Publisher, TaskTarget

VALUE = (
    '{"name":"users","type":"insert","source":{"name":"WalEx","version":"0","db":"shop","schema":"public",'
    '"table":"users","columns":{"id":"int4","q":"text"}},"new_record":{"id":42,"q":"\\"é😀\\\\"},'
    '"timestamp":"2024-01-01T00:00:00Z","lsn":"0/16B3748","index":0}'
).encode()
ARGSREPR = "<Event insert users id=42 lsn=0/16B3748>"


def make_app(url: str, **conf: Any) -> Celery:
    """Return an app of this test's own."""
    app = Celery("conformance", broker=url, set_as_current=False)
    app.conf.update(conf)
    return app


@contextmanager
def publishing(app: Celery, **options: Any) -> Iterator[Publisher]:
    """A publisher that is closed afterwards, and the app's own connections with it."""
    publisher = Publisher.open(app, **{"timeout_seconds": 10.0, **options})
    try:
        yield publisher
    finally:
        publisher.close()
        app.close()


def new_id() -> str:
    return str(uuid.uuid4())


def send(publisher: Publisher, function: TaskTarget, *ids: str, value: bytes = VALUE) -> None:
    """Publish one message per id and have it confirmed."""
    for task_id in ids:
        publisher.add(function, task_id, value, ARGSREPR)
    publisher.flush()
    publisher.confirm()


def plain(value: Any) -> Any:
    """Forget classes and the difference of tuples and lists."""
    return json.loads(json.dumps(value, default=str))


def take_all(url: str, *queues: str) -> list[dict[str, Any]]:
    """Return all that lies in the broker, oldest first; on AMQP in the queues named."""
    if url.startswith("redis"):
        return _take_redis(url)
    found = []
    with Connection(url) as connection:
        channel: Any = connection.channel()
        for queue in queues:
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                properties = dict(message.properties)
                headers = properties.pop("application_headers")
                found.append({
                    "queue": queue,
                    "exchange": message.delivery_info["exchange"],
                    "routing_key": message.delivery_info["routing_key"],
                    "body": message.body,
                    "headers": plain(headers),
                    "properties": plain(properties),
                })  # fmt: skip
        channel.close()
    return found


def _take_redis(url: str) -> list[dict[str, Any]]:
    from redis import Redis

    found = []
    with Redis.from_url(url) as client:
        for key in sorted(client.keys("*")):
            if client.type(key) != b"list":
                continue
            for text in reversed(client.lrange(key, 0, -1)):
                envelope = json.loads(text)
                properties = envelope["properties"]
                found.append({
                    "queue": key.decode(),
                    "exchange": properties["delivery_info"]["exchange"],
                    "routing_key": properties["delivery_info"]["routing_key"],
                    "text": text.decode(),
                    **envelope,
                })  # fmt: skip
            client.delete(key)
    return found


def task_ids(messages: list[dict[str, Any]]) -> list[str]:
    return [message["headers"]["id"] for message in messages]


class Proxy:
    """A TCP proxy in front of a server, which can cut or delay its connections, or let nothing through any more."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._flowing = threading.Event()
        self._flowing.set()
        #: Seconds that each piece of data is late.
        self.delay_seconds = 0.0
        #: Whether new connections are closed at once.
        self.refusing = False
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pump, args=(source, sink), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (data := source.recv(65536)) and self.passes(data):
                self._flowing.wait()
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)
                self.forward(data, source, sink)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def passes(self, data: bytes) -> bool:
        """Whether *data* goes through; if not, its connection ends instead."""
        return True

    def forward(self, data: bytes, source: socket.socket, sink: socket.socket) -> None:
        """Send *data* on; a test may change it, or answer it itself."""
        sink.sendall(data)

    def cut(self) -> None:
        """End all connections."""
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._sockets.clear()

    def stall(self) -> None:
        """Let nothing through until :meth:`flow`; the connections stay open."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.flow()
        self.cut()
        for thread in self._threads:
            thread.join(timeout=5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
