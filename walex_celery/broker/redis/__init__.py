"""Redis and Valkey."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from walex_celery.broker.driver import Writer
from walex_celery.broker.link import Link
from walex_celery.broker.redis.durability import weaknesses
from walex_celery.broker.redis.listening import guard, refusal_of
from walex_celery.broker.redis.writer import RedisWriter

__all__ = ["deadlines", "guard", "open_writer", "refusal_of", "weaknesses"]


def deadlines(timeout_seconds: float) -> Mapping[str, Any]:
    """Return socket options: kombu's Redis transport waits without a limit by default."""
    return {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "socket_keepalive": True,
    }


def open_writer(link: Link, *, exactly_once: bool) -> Writer:
    """Return a writer; exactly once, it stores a position together with the tasks."""
    return RedisWriter(link, exactly_once=exactly_once)
