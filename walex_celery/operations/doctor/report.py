"""Renders the findings, as text or JSON."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from rich.text import Text

from walex_celery.database.finding import Finding, Severity, Step, worst
from walex_celery.events.event import printable

#: Version of what ``--json`` prints; increased when a field is removed or changes its meaning.
JSON_VERSION: Final = 1

_MARKS: Final[dict[Severity, tuple[str, str]]] = {
    "error": ("✗", "bold red"),
    "warning": ("!", "bold yellow"),
    "info": ("i", "cyan"),
    "ok": ("✓", "green"),
}
#: For terminals that are not UTF-8.
_PLAIN: Final[dict[Severity, str]] = {"error": "x", "warning": "!", "info": "i", "ok": "+"}
_HOW: Final = {"sql": "SQL", "shell": "shell", "python": "code", "do": "do"}


def render_text(name: str, findings: list[Finding], *, every: bool, encoding: str = "utf-8") -> list[Text]:
    """Lines for a terminal: each finding with its fix below it, and a count. *every* includes what is ok."""
    lines: list[Text] = []

    def mark(severity: Severity) -> tuple[str, str]:
        sign, style = _MARKS[severity]
        return (sign if encoding.lower().startswith("utf") else _PLAIN[severity]), style

    for finding in findings:
        if finding.severity == "ok" and not every:
            continue
        lines.append(
            Text.assemble(
                mark(finding.severity), " ", printable(finding.sentence), (f"  [{finding.check}]", "dim")
            )
        )
        lines += map(_step, finding.fix)
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in _MARKS}
    summary = (
        f" {name}: {_count(counts['error'], 'error')}, {_count(counts['warning'], 'warning')}, "
        f"{counts['info']} worth knowing, {counts['ok']} fine"
    )
    lines.append(Text.assemble(mark(worst(findings)), summary))
    return lines


def _escaped(text: str) -> str:
    """*text* without escape sequences of a terminal: a table's name may hold some."""
    return "\n".join(map(printable, text.split("\n")))


def _step(step: Step) -> Text:
    return Text.assemble(
        "    ", (f"{_HOW[step.how]:<6}", "dim"), (_escaped(step.line), "bold" if step.how != "do" else "")
    )


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def render_json(name: str, findings: list[Finding]) -> bytes:
    """One JSON document: ``version``, ``name``, ``worst``, and ``findings`` with their ``mend``."""
    document: dict[str, Any] = {
        "version": JSON_VERSION,
        "name": name,
        "worst": worst(findings),
        "findings": findings,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2)
