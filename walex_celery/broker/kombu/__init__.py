"""Any other transport, through kombu's own channel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from walex_celery.broker.driver import Writer
from walex_celery.broker.durability import Weakness
from walex_celery.broker.kombu.writer import KombuWriter
from walex_celery.broker.link import Link
from walex_celery.broker.templates.target import TaskTarget

__all__ = ["deadlines", "guard", "open_writer", "refusal_of", "weaknesses"]


def deadlines(timeout_seconds: float) -> Mapping[str, Any]:
    """Return nothing: transports differ in what they take."""
    return {}


def open_writer(link: Link, *, exactly_once: bool) -> Writer:
    """Return a writer, which can't store a position together with tasks."""
    return KombuWriter(link)


def weaknesses(link: Link, targets: Iterable[TaskTarget]) -> Iterator[Weakness]:
    """Say that nothing is known."""
    yield Weakness(
        "broker-unknown",
        "info",
        f"walex can't tell what the broker {link.url} keeps when it is restarted.",
    )


def refusal_of(link: Link, error: Exception, what: str) -> None:
    """Return nothing: what the library says is all that is known."""


def guard(link: Link, channel: Any) -> None:
    """Do nothing: kombu writes nothing by itself."""
