"""The HTTP server of a producer: ``/metrics``, ``/healthz`` and ``/readyz``.

It runs in a few threads of its own: a client that is slow, or asks too often, never slows down the producer, and never
keeps a probe from its answer.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

from walex_celery.errors import ConfigurationError
from walex_celery.operations.monitor.health import Verdict, liveness, readiness
from walex_celery.operations.monitor.observer import Observer
from walex_celery.pipeline.producer import Producer

if TYPE_CHECKING:
    from walex_celery.operations.monitor.metrics import Exposition

logger = logging.getLogger("walex_celery.operations.monitoring")

#: Connections at a time. For one more, the oldest that has not sent its request is closed, or else the oldest.
CONNECTIONS: Final = 16
#: Scrapes of /metrics rendered at a time: the other connections are for probes.
SCRAPES: Final = 4
#: Seconds that a client may take to send its request and to read the answer, together.
CLIENT_SECONDS: Final = 5.0

NO_METRICS: Final = "metrics need an extra: pip install 'walex-celery[metrics]'"
_TEXT: Final = "text/plain; charset=utf-8"


@contextmanager
def monitoring(producers: Sequence[Producer], *, host: str, port: int) -> Iterator[tuple[str, int]]:
    """Serve ``/metrics``, ``/healthz`` and ``/readyz`` of *producers*; yields the address in use.

    Without prometheus-client the last two still work, and the first says what is missing.

    Args:
        producers: those of this process; usually one.
        host: the address to listen on; ``0.0.0.0`` is all of IPv4, ``::`` everything.
        port: 0 for any free port.

    Raises:
        ConfigurationError: the address is in use, or is not this machine's.
    """
    watched = [(producer, Observer(producer)) for producer in producers]
    exposition = _exposition(watched)
    try:
        server = _Server((host, port), watched, exposition)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"metrics_port: can't listen on {host}:{port}: {getattr(error, 'strerror', None) or error}\n"
            "  fix: choose another with --metrics-port or WALEX_METRICS_PORT (and --metrics-host, WALEX_METRICS_HOST), "
            "or stop what uses it"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="walex-monitoring", daemon=True)
    try:
        for _, observer in watched:
            observer.start()
        thread.start()
        address = str(server.server_address[0]), int(server.server_address[1])
        paths = "/metrics, /healthz and /readyz" if exposition is not None else "/healthz and /readyz"
        logger.info("serving %s on port %s of %s", paths, address[1], address[0], extra={"port": address[1]})
        if exposition is None:
            logger.error("/metrics is not served: %s", NO_METRICS)
        yield address
    finally:
        if thread.is_alive():
            server.shutdown()
            thread.join()
        server.server_close()
        for _, observer in watched:
            observer.stop()


def _exposition(watched: Sequence[tuple[Producer, Observer]]) -> Exposition | None:
    try:
        from walex_celery.operations.monitor.metrics import Exposition
    except ImportError as error:
        if error.name is None or not error.name.startswith("prometheus_client"):
            raise
        return None
    return Exposition(watched)


class _Clients:
    """The open connections: since when, and whether their request has come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[socket.socket, float] = {}  # oldest first
        self._asked: set[socket.socket] = set()

    def add(self, client: socket.socket) -> None:
        """Note a new one; if there are too many, close the one that has waited longest."""
        with self._lock:
            if len(self._since) >= CONNECTIONS:
                silent = (other for other in self._since if other not in self._asked)
                self._close(next(silent, None) or next(iter(self._since)))
            self._since[client] = time.monotonic()

    def asked(self, client: socket.socket) -> None:
        """Note that its request has come."""
        with self._lock:
            self._asked.add(client)

    def remove(self, client: socket.socket) -> None:
        """Forget one that was closed."""
        with self._lock:
            self._since.pop(client, None)
            self._asked.discard(client)

    def close_late(self) -> None:
        """Close those that take longer than they may, however busily they trickle."""
        with self._lock:
            before = time.monotonic() - CLIENT_SECONDS
            for client in [client for client, since in self._since.items() if since < before]:
                self._close(client)

    def _close(self, client: socket.socket) -> None:
        # Its thread sees the end of the connection, and closes it.
        del self._since[client]
        self._asked.discard(client)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The end of the process does not wait for slow clients.
    block_on_close = False

    def __init__(
        self,
        address: tuple[str, int],
        watched: Sequence[tuple[Producer, Observer]],
        exposition: Exposition | None,
    ) -> None:
        self.watched = watched
        self.exposition = exposition
        self.clients = _Clients()
        self.scrapes = threading.BoundedSemaphore(SCRAPES)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's own, which looks up this host's name in the DNS.
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.clients.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.clients.remove(request)

    def service_actions(self) -> None:
        self.clients.close_late()  # twice a second

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a client of the metrics port disconnected", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "walex-celery"
    sys_version = ""
    timeout = CLIENT_SECONDS

    def do_GET(self) -> None:
        self.server.clients.asked(self.connection)
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._metrics()
        elif path == "/healthz":
            self._verdict([liveness(producer) for producer, _ in self.server.watched])
        elif path == "/readyz":
            self._verdict(
                [
                    readiness(producer, broker_reachable=observer.broker_up)
                    for producer, observer in self.server.watched
                ]
            )
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"try /metrics, /healthz or /readyz\n", _TEXT)

    do_HEAD = do_GET

    def _metrics(self) -> None:
        exposition = self.server.exposition
        if exposition is None:
            self._answer(HTTPStatus.NOT_IMPLEMENTED, f"{NO_METRICS}\n".encode(), _TEXT)
            return
        if not self.server.scrapes.acquire(blocking=False):
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, b"too many scrapes at once\n", _TEXT)
            return
        try:
            body, content_type = exposition.render(self.headers.get("Accept", ""))
        finally:
            self.server.scrapes.release()
        self._answer(HTTPStatus.OK, body, content_type)

    def _verdict(self, verdicts: Sequence[Verdict]) -> None:
        status = HTTPStatus.OK if all(verdict.ok for verdict in verdicts) else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, "".join(f"{verdict.text}\n" for verdict in verdicts).encode(), _TEXT)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)
