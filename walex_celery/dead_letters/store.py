"""The protocol of a dead-letter store; ``postgres.py`` and ``sqlite.py`` implement it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from walex_celery.dead_letters.letter import Letter

#: Retries a letter; returns ``None`` on success, else the letter with its new error.
Try: TypeAlias = Callable[[Letter], Letter | None]


class Store(Protocol):
    """The dead letters of one instance. Not thread-safe.

    Every method may raise a :class:`~walex_celery.errors.WalExError`; calling it again reconnects.
    """

    @property
    def where(self) -> str:
        """Where it is, as readable text."""

    def add(self, letter: Letter) -> None:
        """Store *letter* durably. If a letter of that id exists, its events and error are updated."""

    def summaries(self) -> list[Letter]:
        """All letters, without their events, in the order of the events."""

    def get(self, id: str) -> Letter | None:
        """A letter with its events, or ``None``."""

    def attempt(self, id: str, attempt: Try) -> bool:
        """Lock a letter while *attempt* runs; delete it on success, else store what *attempt* returned.

        ``False``, without calling *attempt*, if the letter is gone or locked by another process.
        """

    def discard(self, ids: Iterable[str]) -> int:
        """Delete letters; returns how many existed."""

    def count(self) -> int:
        """How many there are."""

    def close(self) -> None:
        """Close what is open. Never raises."""
