"""What happens to events whose handler failed: the producer halts, tries again, or stores them as a dead letter.

As text, for the environment and the log: ``halt``, ``retry``, ``dead_letter``, or with arguments
``retry:limit=10,backoff=2,then=dead_letter``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

THEN = ("halt", "dead_letter")


@dataclass(frozen=True, slots=True)
class Halt:
    """The producer stops with the error. Its transaction is not acknowledged, and comes again at the next start."""

    def __str__(self) -> str:
        return "halt"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The events and their error are stored, and the stream goes on; see ``walex dead-letters``."""

    def __str__(self) -> str:
        return "dead_letter"


@dataclass(frozen=True, slots=True)
class Retry:
    """The failed handler is called again with the same events, and only it; nothing else is done meanwhile.

    Args:
        limit: how often it is tried again, at most; ``None`` for ever.
        backoff: seconds before the first of these; each wait is twice the last, less up to a quarter at random.
        backoff_max: seconds that no wait exceeds.
        then: what happens after the last: ``"halt"`` or ``"dead_letter"``.

    >>> str(Retry(limit=3, then="dead_letter"))
    'retry:limit=3,backoff=1,backoff_max=60,then=dead_letter'
    """

    limit: int | None = 5
    backoff: float = 1.0
    backoff_max: float = 60.0
    then: Literal["halt", "dead_letter"] = "halt"

    def __post_init__(self) -> None:
        """Check the arguments; ValueError for a wrong one."""
        if self.limit is not None and (
            isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1
        ):
            raise ValueError(
                f"limit: {self.limit!r} is not how often to try again: 1 or more, or None for ever"
            )
        for name in ("backoff", "backoff_max"):
            seconds = getattr(self, name)
            if (
                isinstance(seconds, bool)
                or not isinstance(seconds, int | float)
                or not 0 < seconds < math.inf
            ):
                raise ValueError(f"{name}: {seconds!r} is not a number of seconds above 0")
        if self.then not in THEN:
            raise ValueError(f"then: {self.then!r} is neither 'halt' nor 'dead_letter'")

    def __str__(self) -> str:
        limit = "none" if self.limit is None else self.limit
        return (
            f"retry:limit={limit},backoff={self.backoff:g},backoff_max={self.backoff_max:g},then={self.then}"
        )


OnError: TypeAlias = Halt | Retry | DeadLetter


def on_error_of(value: Any) -> OnError:
    """The policy that *value* stands for: one of the objects, or text.

    Raises:
        ValueError: for anything else.

    >>> on_error_of("retry:limit=10,then=dead_letter")
    Retry(limit=10, backoff=1.0, backoff_max=60.0, then='dead_letter')
    """
    if isinstance(value, Halt | Retry | DeadLetter):
        return value
    if isinstance(value, str):
        name, _, arguments = value.strip().partition(":")
        match name.strip().lower():
            case "halt" if not arguments:
                return Halt()
            case "dead_letter" if not arguments:
                return DeadLetter()
            case "retry":
                return Retry(**_arguments(arguments))
    raise ValueError(
        f"{value!r} is no policy: 'halt', 'retry', 'dead_letter', 'retry:limit=10,then=dead_letter', or "
        "walex_celery's Halt(), Retry(...), DeadLetter()"
    )


def _arguments(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            match name:
                case "limit":
                    found[name] = None if value.lower() == "none" else int(value)
                case "backoff" | "backoff_max":
                    found[name] = float(value)
                case "then":
                    found[name] = value
                case _:
                    known = ", ".join(field.name for field in fields(Retry))
                    raise ValueError(f"retry has no {name!r}; it has {known}")
        except ValueError as error:
            if "retry has no" in str(error):
                raise
            raise ValueError(f"{name}: {value!r} is not a number") from None
    return found


def may_dead_letter(policy: OnError) -> bool:
    """Whether *policy* can end in a dead letter."""
    return isinstance(policy, DeadLetter) or (isinstance(policy, Retry) and policy.then == "dead_letter")
