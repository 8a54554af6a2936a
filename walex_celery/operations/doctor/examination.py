"""The examination. What can't be reached is a finding, and checks that don't need it still run."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from traceback import walk_tb
from types import ModuleType
from typing import Final

import msgspec

from walex_celery.app import WalEx
from walex_celery.database import publication, replica_identity
from walex_celery.database.finding import SEVERITIES, Finding, do
from walex_celery.database.registry import checks_of, make
from walex_celery.errors import ConfigurationError, PublishRefused, WalExError
from walex_celery.operations.doctor import (
    application,
    broker,
    letters,
    role,
    server,
    slot,
    workers,
)
from walex_celery.operations.doctor.context import Context
from walex_celery.operations.doctor.error_finding import finding_of

# In the order in which they run and are printed: prerequisites first.
_POSTGRES: Final = (server, role, publication, replica_identity, slot, letters)

#: Fixes for errors whose text has none.
_LAST_RESORT: Final = {
    "modules": "Correct it in that module",
    "settings": "Set them as keywords of WalEx(), in the environment or in .env",
    "postgres": "Start Postgres, or correct hostname= and port= (or the url)",
    "broker": "Start the broker, or correct broker_url",
}


def examine(walex: WalEx, command: str, *, clock: Callable[[], float] = time.time) -> list[Finding]:
    """All findings about *walex*, the worst first. Changes nothing; takes a few seconds.

    Args:
        walex: the application.
        command: the ``celery`` command for it: ``celery -A shop``.
        clock: this host's time, in seconds since 1970.
    """
    context = Context(walex, command, clock)
    try:
        findings = list(_examine(context))
    finally:
        context.close()
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _examine(context: Context) -> Iterator[Finding]:
    set_up = yield from _reach("settings", "the settings are right", lambda: context.settings, context)
    handled = yield from _reach(
        "modules", "the event modules can be imported", lambda: context.handlers, context
    )
    if handled and set_up:
        # First: with the catalog known, one cause is not reported as several.
        reached = yield from _reach("postgres", "Postgres can be reached", context.connect, context)
        yield from _make((application,), context)
        if reached:
            yield from _make(_POSTGRES, context)
    if (
        yield from _reach("broker", "the broker can be reached", context.connect_broker, context)
    ) and handled:
        yield from _make((broker, workers), context)


def _place_of(error: Exception) -> str:
    """``in shop.events.users, line 3: ``, of the innermost module that was being imported."""
    place = ""
    for frame, line in walk_tb(error.__traceback__):
        if frame.f_code.co_name == "<module>":
            place = f"in {frame.f_globals.get('__name__')}, line {line}: "
    # The module itself did not get to run; its text names the line.
    return "" if isinstance(error, SyntaxError) else place


def _make(modules: tuple[ModuleType, ...], context: Context) -> Iterator[Finding]:
    for module in modules:
        yield from make(checks_of(module.__name__), context)


def _reach(
    check: str, fine: str, reach: Callable[[], object], context: Context
) -> Generator[Finding, None, bool]:
    """Do what later checks depend on; returns whether it worked."""
    try:
        reach()
    except (ConfigurationError, WalExError) as error:
        if context.is_reported(error):
            return False
        found = finding_of(check, "error", error)
        # The rest of a broker error ("What was not confirmed ...") concerns only the producer.
        sentence = found.sentence.partition(" What was not confirmed")[0].rstrip(".")
        # A broker that refuses runs, and its refusal says what to do.
        last_resort = () if isinstance(error, PublishRefused) else do(_LAST_RESORT[check])
        yield msgspec.structs.replace(found, sentence=sentence, fix=found.fix or last_resort)
        return False
    except Exception as error:  # users' modules may raise anything
        text = context.scrub(f"{type(error).__name__}: {error}").strip()
        traceback = f"; its traceback: {context.command} walex setup --dry-run" if check == "modules" else ""
        yield Finding(
            check, "error", f"this failed: {_place_of(error)}{text}", do(_LAST_RESORT[check] + traceback)
        )
        return False
    yield Finding(check, "ok", fine)
    return True
