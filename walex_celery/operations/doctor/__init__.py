"""``walex doctor``: every reason why events would not arrive, or would hurt, each with the line that mends it.

It changes nothing. A file an area; a check is a function that yields findings (:mod:`.registry`).
"""

from __future__ import annotations

from walex_celery.operations.doctor.examination import examine
from walex_celery.operations.doctor.finding import Finding, Severity, Step, worst
from walex_celery.operations.doctor.registry import CHECKS

__all__ = ["CHECKS", "Finding", "Severity", "Step", "examine", "worst"]
