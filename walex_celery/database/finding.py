"""What the doctor reports: findings, and the steps that fix them."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

Severity: TypeAlias = Literal["error", "warning", "info", "ok"]

#: The worst first.
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info", "ok")

How: TypeAlias = Literal["sql", "shell", "python", "do"]


class Step(msgspec.Struct, frozen=True):
    """One step of a fix.

    Attributes:
        how: where to enter it: ``sql`` in the database, ``shell``, ``python`` (a setting of the application); or
            ``do``: an instruction.
        line: what to enter.
    """

    how: How
    line: str


class Finding(msgspec.Struct, frozen=True):
    """What one check found.

    Attributes:
        check: the check's id.
        severity: ``error``: events don't arrive, or are lost. ``warning``: they will be, or it will do harm.
            ``info``: worth knowing. ``ok``: checked, nothing found.
        sentence: one sentence.
        fix: steps, in order; empty if there is nothing to fix. In JSON its name is ``mend``.
    """

    check: str
    severity: Severity
    sentence: str
    fix: tuple[Step, ...] = msgspec.field(default=(), name="mend")


def sql(*lines: str) -> tuple[Step, ...]:
    """Steps of SQL."""
    return tuple(Step("sql", line) for line in lines)


def shell(*lines: str) -> tuple[Step, ...]:
    """Steps for a shell."""
    return tuple(Step("shell", line) for line in lines)


def python(*lines: str) -> tuple[Step, ...]:
    """Steps in the application's code or settings."""
    return tuple(Step("python", line) for line in lines)


def do(*lines: str) -> tuple[Step, ...]:
    """Steps in words."""
    return tuple(Step("do", line) for line in lines)


def worst(findings: list[Finding]) -> Severity:
    """The worst severity among *findings*; ``ok`` if there are none."""
    return min((finding.severity for finding in findings), key=SEVERITIES.index, default="ok")
