"""Which source a producer reads: the slot, or what ``message_middleware`` makes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from walex_celery.sources.middleware import MiddlewareSource
from walex_celery.sources.protocol import ChangeSource
from walex_celery.sources.slot import SlotSource
from walex_celery.telemetry.activity import Activity

Middleware = Callable[..., Any]


def source_for(
    name: str,
    middleware: Callable[[], Middleware | None],
    *,
    standby: bool,
    reconnect_timeout: float | None,
    log_interval: float,
    activity: Activity,
    streaming: threading.Event,
    stopping: threading.Event,
) -> ChangeSource:
    """The source of a producer.

    A middleware that is a source of its own, as :class:`~walex_celery.Spool` is, has a method ``change_source``.

    Args:
        name: of the producer.
        middleware: gives the setting in force.
        standby: wait for a slot that is in use.
        reconnect_timeout, log_interval: the settings.
        activity: of the producer's thread, which calls this.
        streaming: set while the slot is being streamed.
        stopping: set when the producer is to stop.
    """
    current: Any = middleware()
    if current is None:
        return SlotSource(activity, streaming)
    if hasattr(current, "change_source"):
        own: ChangeSource = current.change_source(
            standby=standby,
            reconnect_timeout=reconnect_timeout,
            log_interval=log_interval,
            streaming=streaming,
        )
        return own

    def in_force() -> Middleware:
        found = middleware()
        assert found is not None  # a source is closed before its middleware is taken out of the settings
        return found

    return MiddlewareSource(name, in_force, activity=activity, streaming=streaming, stopping=stopping)
