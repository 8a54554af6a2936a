"""An application of a test's own, whose slot is named after its database: slots are the whole server's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from celery import Celery
from click import Command
from click.testing import CliRunner, Result

from tests.support import Database
from walex_celery import WalEx


def application(database: Database, broker_url: str = "memory://", **settings: Any) -> WalEx:
    """A WalEx named ``shop`` that listens to *database*."""
    app = Celery("shop", broker=broker_url, set_as_current=False)
    # Only while it waits for a worker's answer, which the memory transport never brings.
    app.conf.broker_connection_timeout = 2
    given = {
        "url": database.url,
        "publication": "events",
        "slot_name": database.name,
        "subscriptions": ["users"],
    }
    return WalEx(app, **{**given, **settings})


def command(walex: WalEx, command: Command, *arguments: str, **environment: str) -> Result:
    """Run a command of ``celery walex`` for *walex* in this process."""
    return CliRunner().invoke(
        command, list(arguments), obj=SimpleNamespace(app=walex.app), env=environment, catch_exceptions=False
    )


def ignore(events: list[Any]) -> None:
    """A batch handler."""
