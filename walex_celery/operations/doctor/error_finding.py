"""Errors of the producer as findings: the sentence, and the line that mends it."""

from __future__ import annotations

import re

from walex_celery.operations.doctor.finding import Finding, Severity, Step

_SQL = re.compile(r"(ALTER|CREATE|GRANT|SELECT|DROP)\b.*;")


def finding_of(check: str, severity: Severity, error: Exception) -> Finding:
    """*error* as a finding; its text has the mend after ``mend:``, as all of ours have."""
    sentence, _, mend = str(error).strip().partition("\n  mend: ")
    lines = [line.strip() for line in mend.splitlines() if line.strip()]
    steps = tuple(Step("sql" if _SQL.fullmatch(line) else "do", line) for line in lines)
    return Finding(check, severity, " ".join(sentence.split()), steps)
