"""``celery -A app walex ...``, by Celery's ``celery.commands`` entry point, and ``walex-celery``.

One file per command. Each adds itself to the group when it is imported here.
"""

from __future__ import annotations

from walex_celery.cli import control, dead_letters, doctor, producer, setup, status, tail, where
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
    "control",
    "dead_letters",
    "doctor",
    "exit_code",
    "main",
    "producer",
    "setup",
    "status",
    "tail",
    "walex",
    "where",
]
