"""Both halves side by side: what the compiled part does, and what Python does without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from walex_celery import _speedups as native
from walex_celery._speedups.compiled import Assembler, Context, RowEvent
from walex_celery.events import row_event
from walex_celery.events.cells import Cell
from walex_celery.events.event import Source
from walex_celery.events.row_event import PlainContext, PlainRowEvent, RowSource
from walex_celery.events.shape import Shape
from walex_celery.pipeline import assembler as transaction

#: Where it was not built there is nothing to compare; that it is built where it can be, test_build.py holds.
needs_native = pytest.mark.skipif(not native.COMPILED, reason=native.absence)

COLUMNS = {
    "id": "bigint",
    "name": "text",
    "active": "bool",
    "profile": "jsonb",
    "note": "json",
    'a"b\\': "numeric",
}


def row_source(columns: dict[str, str] | None = None, key: tuple[str, ...] = ("id",)) -> RowSource:
    named = COLUMNS if columns is None else columns
    return RowSource(Source("WalEx", "1", "shop", "public", "users", named, key), Shape(named, {}))


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
        self.events: list[row_event.RowEvent] = []
        for make_context, make_event in ((Context, RowEvent), (PlainContext, PlainRowEvent)):
            context = make_context()
            context.complete(lsn, microseconds, xid, 0 if last else 5, last)
            self.events.append(make_event(source, type, context, index, new, old, old_is_whole))

    def same(self, ask: Callable[[row_event.RowEvent], Any]) -> Any:
        """What both answer, an error included."""
        compiled, plain = (answer(ask, event) for event in self.events)
        assert compiled == plain
        return compiled


def answer(ask: Callable[..., Any], *arguments: Any) -> Any:
    """What *ask* gives, or raises."""
    try:
        return ask(*arguments)
    except Exception as error:
        return type(error), str(error)


ASSEMBLERS = (Assembler, transaction.Assembler)
