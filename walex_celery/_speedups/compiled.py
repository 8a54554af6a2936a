"""The compiled halves, and how each is put in the place of the Python half.

A class is the Python one with a compiled base before it in the order of resolution: the compiled methods do what is
usual, and call Python's by ``super()`` for the rest. Importing this fails where the compiled part was not built.
"""

from __future__ import annotations

from types import new_class
from typing import TYPE_CHECKING, Any, cast

from walex_celery._speedups import context, feeding, messages, rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from walex_celery._speedups.contract import Fill, MakeTasks, P, Packed, ReadSlice, Renders, T


class Compiled:
    """Chooses the compiled halves; see :class:`~walex_celery._speedups.contract.Speedups`."""

    compiled = True
    absence = ""

    def read_slice(self, plain: ReadSlice) -> ReadSlice:
        """Return the compiled function."""
        return feeding.read_slice

    def context(
        self, methods: type[T], plain: Callable[P, T], *, earliest: int, latest: int
    ) -> Callable[P, T]:
        """Return *methods* with compiled fields instead of Python's."""
        context.connect(earliest, latest)
        return _in_front_of(methods, context.ContextFields, plain)

    def row_event(
        self, methods: type[T], plain: Callable[P, T], *, unchanged: object, max_nesting: int
    ) -> Callable[P, T]:
        """Return *methods* with compiled fields instead of Python's."""
        rows.connect(unchanged, max_nesting)
        return _in_front_of(methods, rows.RowFields, plain)

    def assembler(
        self,
        plain: Callable[P, T],
        *,
        context: Callable[..., Any],
        row_event: Callable[..., Any],
        routed_event: type[tuple[Any, ...]],
        chunk: type[tuple[Any, ...]],
    ) -> Callable[P, T]:
        """Return *plain* with compiled fields, which make contexts and events with compiled fields."""
        feeding.connect(row_event, context, routed_event, chunk)
        return _in_front_of(plain, feeding.Feeding, plain, _new_context=context)

    def make_tasks(self, plain: MakeTasks) -> MakeTasks:
        """Return the compiled function."""
        return messages.make_tasks

    def packed(self, plain: Packed) -> Packed:
        """Return the compiled function."""
        return messages.packed

    def json_body(self, plain: Renders, /, *fields: Any) -> Renders:
        """Return the compiled body, which makes base64 and frames by itself."""
        return messages.JsonBody(*fields)

    def envelope(self, plain: Fill, /, *fields: Any) -> Fill:
        """Return the compiled template, which calls *plain* for what is unusual."""
        return messages.Envelopes(plain, *fields).fill

    def frames(self, plain: Fill, /, *fields: Any) -> Fill:
        """Return the compiled template, which calls *plain* for what is unusual."""
        return messages.Frames(plain, *fields).fill


def _in_front_of(python: Any, compiled: type, plain: Callable[P, T], **members: object) -> Callable[P, T]:
    """Return the class *python* with *compiled* before it; it is called like *plain*, the Python half."""
    members |= {"__slots__": (), "__doc__": python.__doc__, "__module__": python.__module__}
    combined: Any = new_class(python.__name__, (compiled, python), {}, lambda body: body.update(members))
    return cast("Callable[P, T]", combined)
