"""Order pages kept in Valkey (or Redis) until their order changes."""

from __future__ import annotations

import os

from redis import Redis

#: The tasks that have removed a page: a set, so that a redelivered task counts once.
INVALIDATED = "shop:invalidated"


def cache() -> Redis:
    """The cache; use it in a ``with``."""
    return Redis.from_url(os.environ.get("SHOP_CACHE_URL", "redis://localhost:6379/1"))


def page_key(order_id: int) -> str:
    """The cache key of an order's page."""
    return f"shop:order:{order_id}"
