"""Python throughout: of each pair the Python half."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from walex_celery._speedups.contract import Fill, MakeTasks, P, Packed, ReadSlice, Renders, T


class Plain:
    """Chooses Python; see :class:`~walex_celery._speedups.contract.Speedups`."""

    compiled = False

    def __init__(self, absence: str) -> None:
        self.absence = absence

    def read_slice(self, plain: ReadSlice) -> ReadSlice:
        """Return *plain*, as all do."""
        return plain

    def context(self, methods: type[T], plain: Callable[P, T], **_: Any) -> Callable[P, T]:
        """Return *plain*."""
        return plain

    def row_event(self, methods: type[T], plain: Callable[P, T], **_: Any) -> Callable[P, T]:
        """Return *plain*."""
        return plain

    def assembler(self, plain: Callable[P, T], **_: Any) -> Callable[P, T]:
        """Return *plain*."""
        return plain

    def make_tasks(self, plain: MakeTasks) -> MakeTasks:
        """Return *plain*."""
        return plain

    def packed(self, plain: Packed) -> Packed:
        """Return *plain*."""
        return plain

    def json_body(self, plain: Renders, /, *_: Any) -> Renders:
        """Return *plain*."""
        return plain

    def envelope(self, plain: Fill, /, *_: Any) -> Fill:
        """Return *plain*."""
        return plain

    def frames(self, plain: Fill, /, *_: Any) -> Fill:
        """Return *plain*."""
        return plain
