"""RabbitMQ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from walex_celery.broker.amqp.durability import weaknesses
from walex_celery.broker.amqp.writer import AmqpWriter
from walex_celery.broker.driver import Writer
from walex_celery.broker.link import Link

__all__ = ["deadlines", "guard", "open_writer", "refusal_of", "weaknesses"]


def deadlines(timeout_seconds: float) -> Mapping[str, Any]:
    """Return nothing: the writer limits each wait itself."""
    return {}


def open_writer(link: Link, *, exactly_once: bool) -> Writer:
    """Return a writer; RabbitMQ can't store a position together with tasks."""
    return AmqpWriter(link)


def refusal_of(link: Link, error: Exception, what: str) -> None:
    """Return nothing: what the library says is all that is known."""


def guard(link: Link, channel: Any) -> None:
    """Do nothing: kombu writes nothing by itself."""
