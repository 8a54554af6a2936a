"""All that speaks to the broker: publishes tasks confirmed, in order, and by the batch."""

from __future__ import annotations

from walex_celery.broker.publisher import Publisher
from walex_celery.broker.target import TaskTarget

__all__ = ["Publisher", "TaskTarget"]
