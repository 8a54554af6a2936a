"""The checks, each a function of what it examines: a :class:`~walex_celery.database.subject.Subject`, or more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import psycopg2

from walex_celery.database.finding import Finding
from walex_celery.errors import WalExError

#: Any: the catalog's checks need less of what they examine than the doctor's.
Examine: TypeAlias = Callable[[Any], Iterable[Finding]]


class Scrubs(Protocol):
    """What is examined, if it can redact secrets."""

    def scrub(self, text: str) -> str:
        """*text* with secrets redacted."""


class LeftOut(Exception):
    """Nothing to check, or another check reports the cause: neither a finding nor ok."""


class Check(NamedTuple):
    """A check. Its id is the function's name; *fine* is the sentence to print when it finds nothing."""

    id: str
    fine: str
    examine: Examine


#: All of them.
CHECKS: Final[list[Check]] = []


def check(fine: str) -> Callable[[Examine], Examine]:
    """Make a function a check; *fine* is printed when it finds nothing."""

    def register(examine: Examine) -> Examine:
        CHECKS.append(Check(examine.__name__, fine, examine))
        return examine

    return register


def checks_of(module: str) -> list[Check]:
    """The checks that *module* defines, in the order of definition."""
    return [made for made in CHECKS if made.examine.__module__ == module]


def make(checks: Iterable[Check], context: Scrubs) -> Iterator[Finding]:
    """The findings of *checks*. A check that raises is a finding too, and the others go on."""
    for made in checks:
        try:
            findings = list(made.examine(context))
        except LeftOut:
            continue
        except (psycopg2.Error, WalExError, OSError) as error:
            text = context.scrub(str(error).strip()).partition("\n")[0]
            yield Finding(made.id, "warning", f"this could not be checked: {text}")
            continue
        yield from findings or [Finding(made.id, "ok", made.fine)]
