"""The registry of drivers, by the library that a URL's transport uses; each is loaded when first needed."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from celery import Celery

from walex_celery.broker.driver import Driver
from walex_celery.broker.link import Link

#: kombu's ``Transport.driver_name`` -> a package that is a :class:`Driver`.
_DRIVERS: Final = {
    "redis": "walex_celery.broker.redis",
    "py-amqp": "walex_celery.broker.amqp",
}
_ANY_OTHER: Final = "walex_celery.broker.kombu"


def driver_of(link: Link) -> Driver:
    """Return the driver for a link's transport.

    Raises:
        ConfigurationError: there is no such transport, or its library is missing.
    """
    return cast(Driver, import_module(_DRIVERS.get(link.driver_name, _ANY_OTHER)))


def open_link(app: Celery, timeout_seconds: float, *, sender: str | None = None) -> Link:
    """Return a link to the app's broker whose waits all end; connects when first needed.

    Args:
        app: its broker settings count.
        timeout_seconds: for connecting, and for each wait on the broker.
        sender: the node that events are sent as; ``None`` for one made of process and host.

    Raises:
        ConfigurationError: no such transport, its library is missing, or the URL can't be read.
    """
    link = Link(app, timeout_seconds, sender=sender)
    options = driver_of(link).deadlines(timeout_seconds)
    return Link(app, timeout_seconds, sender=sender, **options) if options else link
