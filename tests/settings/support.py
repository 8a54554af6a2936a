"""Settings with the least that is needed, for one test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from walex_celery.settings.model import WalExSettings, load_settings

SECRET = "hunter2"
LEAST: dict[str, Any] = {"name": "shop", "database": "shop", "publication": "events"}


def load(conf: Mapping[str, Any] | None = None, **keywords: Any) -> WalExSettings:
    return load_settings({**LEAST, **keywords}, conf or {})
