"""Consuming from Redis, as remote control does: what kombu writes by itself meanwhile, and what its refusal means."""

from __future__ import annotations

import logging
from typing import Any

from walex_celery.broker.link import Link
from walex_celery.broker.redis.errors import is_reply, passes, refusal, reply_text
from walex_celery.errors import PublishRefused

logger = logging.getLogger("walex_celery.broker.redis")


def refusal_of(link: Link, error: Exception, what: str) -> PublishRefused | None:
    """Return the error, with its fix, for *what* the server refused; ``None`` for any other error."""
    if not is_reply(error) or passes(error):
        return None
    return refusal(link, reply_text(error), what)


def guard(link: Link, channel: Any) -> None:
    """Have a channel of kombu's end its consumer when the server became a replica.

    From time to time it refreshes the bindings of the queues that it consumes. kombu logs a refusal with its traceback,
    and tries again at each poll, twice a second. On a replica that is no use: commands and answers go to the primary.
    Other refusals (no memory) are logged once.
    """
    refresh = getattr(channel, "maybe_refresh_binding_expiry", None)
    if refresh is None:
        return
    warned: list[str] = []

    def refresh_or_raise() -> None:
        try:
            refresh()
        except Exception as error:
            refused = refusal_of(link, error, "what remote control writes")
            if refused is None:
                raise
            if "READONLY" in str(refused):
                raise refused from error  # not one of the errors that kombu waits out
            if not warned:
                logger.warning("%s", refused)
                warned.append(str(refused))
        else:
            warned.clear()

    channel.maybe_refresh_binding_expiry = refresh_or_raise
