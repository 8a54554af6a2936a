"""``walex doctor``: finds every reason why events would not arrive, or would do harm, and says how to fix it.

It changes nothing. One file per area; a check is a function that yields findings (:mod:`.registry`).
"""

from __future__ import annotations

from walex_celery.database.finding import Finding, Severity, Step, worst
from walex_celery.database.registry import CHECKS
from walex_celery.operations.doctor.examination import examine

__all__ = ["CHECKS", "Finding", "Severity", "Step", "examine", "worst"]
