"""Makes a producer a node of Celery: it answers remote control and appears in Flower, like a worker.

It has its own thread and connection: if the broker is down, answers are lost, but never a change.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from contextlib import suppress
from typing import Any, Final

from celery import Celery

from walex_celery.app import WalEx
from walex_celery.broker import Link, driver_of, open_link
from walex_celery.errors import WalExError
from walex_celery.operations.remote.node import Remote, RemoteNode
from walex_celery.pipeline.producer import Producer
from walex_celery.telemetry.activity import Doing
from walex_celery.telemetry.report import own_version

logger = logging.getLogger("walex_celery.operations.presence")

#: Seconds between heartbeats, like a worker's. Monitors show a node as offline if it misses them.
HEARTBEAT_SECONDS: Final = 2.0
#: Seconds to wait for a command before checking the heartbeat.
_LISTEN_SECONDS: Final = 0.5
_CONNECT_SECONDS: Final = 10.0
_LONGEST_BACKOFF_SECONDS: Final = 30.0


class Presence:
    """Makes *producer* answer remote control and appear in Flower, inside a ``with``.

    Does nothing if both ``worker_enable_remote_control`` and the setting ``flower`` are off.
    """

    def __init__(self, app: Celery, walex: WalEx, producer: Producer) -> None:
        settings = walex.settings
        self._app = app
        self._producer = producer
        self._remote = Remote(app, walex, producer, settings.name)
        self._hostname = producer.node
        self._answers = bool(app.conf.worker_enable_remote_control)
        self._shows_itself = settings.flower
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Presence:
        if self._answers or self._shows_itself:
            self._thread = threading.Thread(target=self._run, name="walex-presence", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._closing.set()
        if self._thread is not None:
            # A hanging broker must not delay the end of the process.
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        # A producer that finds the slot in use ends at once, and must not appear as the one that has its name.
        while not self._is_up() and not self._closing.wait(0.05):
            pass
        delay, warned = 1.0, False
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                self._serve()
            except Exception as error:  # every driver has its own error classes
                if time.monotonic() - began > _LONGEST_BACKOFF_SECONDS:
                    delay, warned = 1.0, False
                text = str(error) if isinstance(error, WalExError) else type(error).__name__
                logger.log(
                    logging.DEBUG if warned else logging.WARNING,
                    "remote control and Flower can't reach this producer now (%s); trying again", text,
                )  # fmt: skip
                warned = True
                self._closing.wait(delay)
                delay = min(delay * 2, _LONGEST_BACKOFF_SECONDS)

    def _is_up(self) -> bool:
        found = self._producer.snapshot()
        return found is not None and found.state not in (Doing.STARTING.value, Doing.CONNECTING.value)

    def _serve(self) -> None:
        link = open_link(self._app, _CONNECT_SECONDS)
        try:
            link.connect()
            self._serve_on(link)
        except Exception as error:
            refused = driver_of(link).refusal_of(link, error, "what remote control writes")
            if refused is not None:
                raise refused from error
            raise
        finally:
            if self._closing.is_set():
                link.close()
            else:
                link.drop()

    def _serve_on(self, link: Link) -> None:
        connection: Any = link.connection
        answers = self._answers and connection.supports_exchange_type("fanout")
        if answers:
            mailbox: Any = self._app.control
            channel = connection.channel()
            driver_of(link).guard(link, channel)
            node = RemoteNode(self._hostname, self._remote, channel, mailbox.mailbox(connection))
            node.listen()
            logger.info("remote control and Flower show this producer as %s", self._hostname)
        events = self._app.events.Dispatcher(
            connection, hostname=self._hostname, enabled=self._shows_itself, buffer_while_offline=False
        )
        self._send(events, "worker-online")
        beaten = time.monotonic()
        while not self._closing.is_set():
            if answers:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=_LISTEN_SECONDS)
            else:
                self._closing.wait(_LISTEN_SECONDS)
            if connection.supports_heartbeats and connection.heartbeat:
                connection.heartbeat_check()
            if time.monotonic() - beaten >= HEARTBEAT_SECONDS:
                beaten = time.monotonic()
                self._send(events, "worker-heartbeat")
        self._send(events, "worker-offline")

    def _send(self, events: Any, type: str) -> None:
        if self._shows_itself:
            found = self._producer.snapshot()
            events.send(
                type,
                freq=HEARTBEAT_SECONDS,
                active=0 if found is None else found.batches_in_flight,
                processed=self._producer.statistics.tasks,
                loadavg=[round(load, 2) for load in os.getloadavg()],
                sw_ident="walex-celery",
                sw_ver=own_version(),
                sw_sys=platform.system(),
                retry=False,
            )
