"""What a store of dead letters does; there are two, ``postgres.py`` and ``sqlite.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from walex_celery.dead_letters.letter import Letter

#: A try: ``None`` if it went well, otherwise the letter as it is now.
Try: TypeAlias = Callable[[Letter], Letter | None]


class Store(Protocol):
    """The dead letters of one instance. Not to be used by two threads at once.

    Every method may raise a :class:`~walex_celery.errors.WalExError`; calling it again connects anew.
    """

    @property
    def where(self) -> str:
        """Where it is, for people."""

    def add(self, letter: Letter) -> None:
        """Store *letter*; it is durable on return. One that is there already gets this error, and stays one."""

    def summaries(self) -> list[Letter]:
        """All letters without their events, as the events happened."""

    def get(self, id: str) -> Letter | None:
        """A letter with its events, or ``None``."""

    def attempt(self, id: str, attempt: Try) -> bool:
        """Hold a letter while *attempt* has it; remove it if that went well, else keep what it became.

        ``False`` if it is gone, or another process holds it: then *attempt* was not called.
        """

    def discard(self, ids: Iterable[str]) -> int:
        """Remove letters; how many there were."""

    def count(self) -> int:
        """How many there are."""

    def close(self) -> None:
        """Close what is open. Never raises."""
