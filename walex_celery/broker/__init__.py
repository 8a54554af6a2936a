"""The broker: publishes tasks confirmed, in order, and by the batch.

A driver for each kind of broker encodes, writes and confirms messages (:mod:`walex_celery.broker.drivers`).
"""

from __future__ import annotations

from walex_celery.broker.drivers import driver_of, open_link
from walex_celery.broker.link import Link
from walex_celery.broker.publisher import Publisher
from walex_celery.broker.templates.destination import Destination, DestinationOf, by_event
from walex_celery.broker.templates.target import TaskTarget

__all__ = [
    "Destination",
    "DestinationOf",
    "Link",
    "Publisher",
    "TaskTarget",
    "by_event",
    "driver_of",
    "open_link",
]
