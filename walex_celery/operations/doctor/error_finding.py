"""Turns the producer's errors into findings: the sentence and the fix."""

from __future__ import annotations

import re

from walex_celery.database.finding import Finding, Severity, Step

_SQL = re.compile(r"(ALTER|CREATE|GRANT|SELECT|DROP)\b.*;")


def finding_of(check: str, severity: Severity, error: Exception) -> Finding:
    """*error* as a finding; the fix is what follows ``fix:`` in its text."""
    sentence, _, fix = str(error).strip().partition("\n  fix: ")
    lines = [line.strip() for line in fix.splitlines() if line.strip()]
    steps = tuple(Step("sql" if _SQL.fullmatch(line) else "do", line) for line in lines)
    return Finding(check, severity, " ".join(sentence.split()), steps)
