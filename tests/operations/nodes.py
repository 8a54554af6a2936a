"""A producer that can be asked, and the command line in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from celery import Celery
from click.testing import CliRunner, Result

from tests.support import wait_until
from tests.support.producers import running
from walex_celery import Producer, WalEx
from walex_celery.cli import walex as commands
from walex_celery.operations.monitor.flower import Presence
from walex_celery.operations.remote.ask import ask


@contextmanager
def present(app: Celery, walex: WalEx, *, standby: bool = False) -> Iterator[Producer]:
    """*walex*'s producer running in a thread, listening to remote control."""
    with running(walex, standby=standby) as producer, Presence(app, walex, producer):
        wait_until(lambda: ask(app, "status", destination=[producer.node], timeout=2), 30, "it answers")
        yield producer


def command(app: Celery, *arguments: str) -> Result:
    """``celery -A ... walex *arguments*``."""
    return CliRunner().invoke(commands, arguments, obj=SimpleNamespace(app=app), catch_exceptions=False)
