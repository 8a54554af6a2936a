"""Which source the settings ask for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from walex_celery.settings.model import WalExSettings
from walex_celery.sources.middleware import MiddlewareSource
from walex_celery.sources.protocol import ChangeSource
from walex_celery.sources.slot import SlotSource
from walex_celery.telemetry.activity import Activity


def source_for(
    settings: Callable[[], WalExSettings],
    *,
    standby: bool,
    activity: Activity,
    streaming: threading.Event,
    stopping: threading.Event,
) -> ChangeSource:
    """The source of a producer: the slot, or what ``message_middleware`` makes of it.

    A middleware that is a source of its own, as :class:`~walex_celery.Spool` is, has a method ``change_source``.

    Args:
        settings: gives those in force.
        standby: wait for a slot that is in use.
        activity: of the producer's thread, which calls this.
        streaming: set while the slot is being streamed.
        stopping: set when the producer is to stop.
    """
    current = settings()
    middleware: Any = current.message_middleware
    if middleware is None:
        return SlotSource(activity, streaming)
    if hasattr(middleware, "change_source"):
        own: ChangeSource = middleware.change_source(standby=standby, streaming=streaming)
        return own
    return MiddlewareSource(
        current.name,
        partial(_middleware_of, settings),
        activity=activity,
        streaming=streaming,
        stopping=stopping,
    )


def _middleware_of(settings: Callable[[], WalExSettings]) -> Callable[..., Any]:
    middleware = settings().message_middleware
    assert middleware is not None  # a source is closed before its middleware is taken out of the settings
    return middleware
