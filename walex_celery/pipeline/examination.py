"""The catalog, examined while streaming: what would keep events from arriving is logged with its fix.

``doctor`` makes the same checks (:mod:`walex_celery.database`), so the two never disagree.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import psycopg2
from psycopg2.extensions import connection as Connection

from walex_celery._invocation import celery_command
from walex_celery.database import publication, replica_identity
from walex_celery.database.finding import Finding
from walex_celery.database.registry import LeftOut, checks_of
from walex_celery.database.subject import CatalogSubject
from walex_celery.errors import WalExError
from walex_celery.handlers.registry import Handler
from walex_celery.settings.model import WalExSettings

# The producer's logger: whoever filters its lines gets these too.
logger = logging.getLogger("walex_celery.producer")

#: Findings of one check that are logged; with thousands of tables there may be as many findings.
MOST_FINDINGS: Final = 10
#: The catalog is examined during at most this part of the time.
LARGEST_SHARE: Final = 0.01
#: Milliseconds that each query of the catalog may take.
PATIENCE_MS: Final = 5000

_LEVELS: Final = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}
#: Only the doctor reports what costs something but loses nothing, a line for each table.
_LEFT_TO_DOCTOR: Final = frozenset({"published_for_nothing", "row_filters"})


class Examination:
    """Examines the catalog when asked, and logs what is new.

    Args:
        settings: gives those in force.
        handlers: all that are registered.
    """

    def __init__(self, settings: Callable[[], WalExSettings], handlers: Iterable[Handler]) -> None:
        self._settings = settings
        self._handlers = handlers
        self._known: frozenset[Finding] = frozenset()
        self._failed = False
        self._examined: WalExSettings | None = None
        self._next_look = 0.0

    def look(self, connection: Connection) -> None:
        """Log what was not found by the last look; a catalog that can't be read is no reason to stop."""
        settings = self._settings()
        started = time.monotonic()
        if started < self._next_look and settings is self._examined:
            return
        try:
            found = findings_of(settings, self._handlers, connection)
        except Exception as error:  # whatever it is, the stream goes on
            if not self._failed:
                self._failed = True
                reason = str(error).strip().partition("\n")[0]
                logger.warning("tables and publications could not be examined: %s", reason)
            return
        finally:
            now = time.monotonic()
            self._next_look = now + (now - started) / LARGEST_SHARE
        self._failed = False
        self._examined = settings
        new = [finding for finding in found if finding not in self._known]
        self._known = frozenset(found)
        _log(new)


def findings_of(
    settings: WalExSettings, handlers: Iterable[Handler], connection: Connection
) -> list[Finding]:
    """What ``doctor`` finds in the catalog, except what loses nothing.

    Args:
        settings: whose subscriptions and publications.
        handlers: all that are registered.
        connection: in autocommit; used for one read-only transaction.

    Raises:
        WalExError, psycopg2.Error: the catalog can't be read.
    """
    with connection.cursor() as cursor:
        # One snapshot: a migration that commits meanwhile is seen whole or not at all.
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            cursor.execute(f"SET LOCAL statement_timeout = {PATIENCE_MS}")
            subject = CatalogSubject(settings, handlers, connection)
            return list(_examine(subject))
        finally:
            if not connection.closed:
                cursor.execute("ROLLBACK")


def _examine(subject: CatalogSubject) -> Iterator[Finding]:
    for module in (publication, replica_identity):
        for check in checks_of(module.__name__):
            if check.id in _LEFT_TO_DOCTOR:
                continue
            try:
                yield from check.examine(subject)
            except LeftOut:
                continue


def text_of(finding: Finding) -> str:
    """A finding and its fix, as the log has it."""
    return "".join((finding.sentence, *(f"\n  fix: {step.line}" for step in finding.fix)))


def most_of(findings: Iterable[Finding]) -> tuple[list[Finding], Counter[str]]:
    """The first findings of each check, and how many more each has."""
    counts: Counter[str] = Counter()
    first = []
    for finding in findings:
        counts[finding.check] += 1
        if counts[finding.check] <= MOST_FINDINGS:
            first.append(finding)
    return first, Counter(
        {check: count - MOST_FINDINGS for check, count in counts.items() if count > MOST_FINDINGS}
    )


def _log(findings: Iterable[Finding]) -> None:
    first, more = most_of(findings)
    for finding in first:
        logger.log(_LEVELS[finding.severity], "%s", text_of(finding), extra={"check": finding.check})
    for check, count in more.items():
        level = max(_LEVELS[finding.severity] for finding in first if finding.check == check)
        logger.log(
            level, "%s more findings of %s; %s walex doctor lists them all", count, check, celery_command()
        )


def examine_once(
    settings: WalExSettings, handlers: Iterable[Handler], connect: Callable[[], Connection]
) -> list[str]:
    """The errors and warnings that *settings* would cause, as text; empty if the catalog can't be read."""
    try:
        connection = connect()
    except WalExError as error:
        logger.debug("tables and publications could not be examined: %s", error)
        return []
    try:
        first, _ = most_of(findings_of(settings, handlers, connection))
    except (WalExError, psycopg2.Error) as error:
        logger.debug("tables and publications could not be examined: %s", error)
        return []
    finally:
        connection.close()
    return [f"{finding.severity}: {text_of(finding)}" for finding in first if finding.severity != "info"]
