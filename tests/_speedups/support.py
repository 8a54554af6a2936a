"""Both halves side by side: the one in use, which is compiled, and Python's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from walex_celery._speedups import speedups
from walex_celery.events.cells import Cell
from walex_celery.events.event import Source
from walex_celery.events.row_event import (
    PlainContext,
    PlainRowEvent,
    RowEvent,
    RowSource,
    new_context,
    new_row_event,
)
from walex_celery.events.shape import Shape
from walex_celery.events.values import Numbers
from walex_celery.pipeline.assembler import Assembler, new_assembler

#: Without the compiled part there is nothing to compare; test_build.py tests that it is built if it can be.
needs_compiled = pytest.mark.skipif(not speedups.compiled, reason=speedups.absence)

COLUMNS = {
    "id": "bigint",
    "name": "text",
    "active": "bool",
    "profile": "jsonb",
    "note": "json",
    'a"b\\': "numeric",
}


def row_source(
    columns: dict[str, str] | None = None, key: tuple[str, ...] = ("id",), numbers: Numbers = "auto"
) -> RowSource:
    named = COLUMNS if columns is None else columns
    source = Source("WalEx", "1", "shop", "public", "users", named, key, numbers=numbers)
    return RowSource(source, Shape(named, {}, numbers))


class Both:
    """An event twice: compiled and plain."""

    def __init__(
        self,
        type: Any,
        new: Sequence[Cell] | None,
        old: Sequence[Cell] | None,
        *,
        old_is_whole: bool = True,
        source: RowSource | None = None,
        microseconds: int = 1,
        xid: int | None = 7,
        index: int = 3,
        last: bool = True,
        lsn: int = 0x16B3748,
    ) -> None:
        source = source or row_source()
        self.events: list[RowEvent] = []
        for make_context, make_event in ((new_context, new_row_event), (PlainContext, PlainRowEvent)):
            context = make_context()
            context.complete(lsn, microseconds, xid, 0 if last else 5, last)
            self.events.append(make_event(source, type, context, index, new, old, old_is_whole))

    def same(self, ask: Callable[[RowEvent], Any]) -> Any:
        """Return the answer of both, an error included."""
        compiled, plain = (answer(ask, event) for event in self.events)
        assert compiled == plain
        return compiled


def answer(ask: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of *ask*, or the error that it raises."""
    try:
        return ask(*arguments)
    except Exception as error:
        return type(error), str(error)


ASSEMBLERS: tuple[Callable[..., Assembler], ...] = (new_assembler, Assembler)
