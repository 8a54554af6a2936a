"""``celery -A app walex ...``, by Celery's ``celery.commands`` entry point, and ``walex-celery``.

One file per command, imported when the command is called (``base.py`` has the list).
"""

from __future__ import annotations

from walex_celery.cli.base import (
    EXIT_CONFIGURATION,
    EXIT_ERROR,
    EXIT_GAVE_UP,
    EXIT_HANDLER,
    EXIT_NO_PRODUCER,
    EXIT_OK,
    EXIT_SLOT_IN_USE,
    exit_code,
    walex,
)
from walex_celery.cli.main import main

__all__ = [
    "EXIT_CONFIGURATION",
    "EXIT_ERROR",
    "EXIT_GAVE_UP",
    "EXIT_HANDLER",
    "EXIT_NO_PRODUCER",
    "EXIT_OK",
    "EXIT_SLOT_IN_USE",
    "exit_code",
    "main",
    "walex",
]
