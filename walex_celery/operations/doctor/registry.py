"""The checks, each a function of the :class:`~walex_celery.operations.doctor.context.Context`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

import psycopg2

from walex_celery.errors import WalExError
from walex_celery.operations.doctor.context import Context
from walex_celery.operations.doctor.finding import Finding

Examine: TypeAlias = Callable[[Context], Iterable[Finding]]


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


def make(checks: Iterable[Check], context: Context) -> Iterator[Finding]:
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
