"""Changes of public.users."""

from __future__ import annotations

import logging

from shop.celery import walex
from shop.tasks import index_user, send_welcome_email
from walex_celery import Event, Filters

logger = logging.getLogger(__name__)

QUIET = Filters(unwatched_records={"event_subscribe": False}, unwatched_fields=("updated_at", "todos_count"))


@walex.on_insert("users", QUIET, [send_welcome_email])
def users_signed_up(events: list[Event]) -> None:
    """Called in the producer, once per transaction."""
    logger.info("%d signed up", len(events))


# A task decorated with on_* needs no batch handler: it is enqueued for each event.
walex.on_event("users", QUIET)(index_user)
