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
    """There is nothing to look at, or another check says what is missing; neither a finding nor fine."""


class Check(NamedTuple):
    """A check: its id is its function's name; *fine* is the sentence of one that finds nothing."""

    id: str
    fine: str
    examine: Examine


#: All of them.
CHECKS: Final[list[Check]] = []


def check(fine: str) -> Callable[[Examine], Examine]:
    """Make a function a check; *fine* is what is said when it finds nothing."""

    def register(examine: Examine) -> Examine:
        CHECKS.append(Check(examine.__name__, fine, examine))
        return examine

    return register


def checks_of(module: str) -> list[Check]:
    """The checks that *module* defines, in their order there."""
    return [made for made in CHECKS if made.examine.__module__ == module]


def make(checks: Iterable[Check], context: Context) -> Iterator[Finding]:
    """The findings of *checks*; one that fails is a finding too, and the others go on."""
    for made in checks:
        try:
            findings = list(made.examine(context))
        except LeftOut:
            continue
        except (psycopg2.Error, WalExError, OSError) as error:
            text = context.scrub(str(error).strip()).partition("\n")[0]
            yield Finding(made.id, "warning", f"this could not be looked at: {text}")
            continue
        yield from findings or [Finding(made.id, "ok", made.fine)]
