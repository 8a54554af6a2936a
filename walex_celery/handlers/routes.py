"""Routes: which handlers an event reaches.

:func:`route_of` picks the handlers of one table and type, and compiles their filters to work on the cells of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from walex_celery.events.cells import UNCHANGED, Cell
from walex_celery.handlers.kinds import KINDS
from walex_celery.telemetry.statistics import Tally

if TYPE_CHECKING:
    from walex_celery.events.event import EventType
    from walex_celery.events.shape import Shape
    from walex_celery.filters import Filters, Table
    from walex_celery.handlers.registry import Handler

#: How many different cells of an unwatched column are remembered; columns used so (flags) have few values.
_REMEMBERED_CELLS: Final = 1024

#: Whether a handler wants a row: (new cells, old cells when the whole old row is known).
Accepts = Callable[[Sequence[Cell] | None, Sequence[Cell] | None], bool]


class Subscriber(NamedTuple):
    """A handler with its filters compiled for one table; ``accepts`` is ``None`` where it takes all."""

    handler: Handler
    accepts: Accepts | None


class Route:
    """The handlers that want the events of one table and type, in the order they were registered.

    Attributes:
        handlers: all of them.
        batches: those with a batch handler.
        checks: each one's filters, compiled; ``None`` where it takes all.
        takes_all: no row is filtered.
        tally: counts the events, those of its parts included.
        targets: the dispatcher's: the functions of these handlers, resolved when first needed.
    """

    __slots__ = ("_parts", "batches", "checks", "handlers", "takes_all", "tally", "targets")

    def __init__(self, subscribers: Sequence[Subscriber], tally: Tally | None = None) -> None:
        self.tally = Tally() if tally is None else tally
        self.handlers = tuple(subscriber.handler for subscriber in subscribers)
        self.batches = tuple(handler for handler in self.handlers if handler.batch is not None)
        self.checks = tuple(subscriber.accepts for subscriber in subscribers)
        self.targets: Any = None
        self.takes_all = all(check is None for check in self.checks)
        self._parts: dict[tuple[bool, ...], Route | None] = {(True,) * len(self.checks): self}

    def __bool__(self) -> bool:
        return bool(self.handlers)

    def of(self, new: Sequence[Cell] | None, old: Sequence[Cell] | None) -> Route | None:
        """The handlers that want this row; ``None`` if none does."""
        if self.takes_all:
            return self
        answers = tuple([check is None or check(new, old) for check in self.checks])
        try:
            return self._parts[answers]
        except KeyError:
            wanting = [
                Subscriber(handler, None)
                for handler, wants in zip(self.handlers, answers, strict=True)
                if wants
            ]
            part = self._parts[answers] = Route(wanting, self.tally) if wanting else None
            return part


def route_of(
    registry: Iterable[Handler], table: Table, type: EventType, shape: Shape, tally: Tally | None = None
) -> Route:
    """The handlers that events of *type* on *table* reach."""
    return Route(
        [
            Subscriber(handler, compile_filters(handler.filters, type, shape))
            for handler in registry
            if handler.wants(table, type)
        ],
        tally,
    )


def message_route(registry: Iterable[Handler], prefix: str, tally: Tally | None = None) -> Route:
    """The handlers that messages with *prefix* reach."""
    return Route(
        [
            Subscriber(handler, None)
            for handler in registry
            if not handler.of_tables and handler.prefix in (None, prefix)
        ],
        tally,
    )


def compile_filters(filters: Filters, type: EventType, shape: Shape) -> Accepts | None:
    """*filters* as a function of a row's cells, the same as ``filters.accepts(event)``; ``None`` takes all."""
    checks = []
    # A column that the table does not have never holds the unwatched value, so nothing is dropped by it.
    if filters.unwatched_records and all(name in shape.index for name in filters.unwatched_records):
        checks.append(_record_check(filters.unwatched_records, shape))
    kind = KINDS[type]
    if filters.unwatched_fields and kind.has_new_row and kind.has_old_row:
        checks.append(_fields_check(filters.unwatched_fields, shape))
    if not checks:
        return None
    if len(checks) == 1:
        return checks[0]
    first, second = checks
    return lambda new, old: first(new, old) and second(new, old)


def _record_check(unwatched: Mapping[str, Any], shape: Shape) -> Accepts:
    tests = [
        (shape.index[name], _equals(shape, shape.index[name], value)) for name, value in unwatched.items()
    ]

    def accepts(new: Sequence[Cell] | None, old: Sequence[Cell] | None) -> bool:
        row = old if new is None else new
        assert row is not None
        return not all(equals(row[number]) for number, equals in tests)

    return accepts


def _equals(shape: Shape, number: int, value: Any) -> Callable[[Cell], bool]:
    """Whether a cell's Python value equals *value*; answers are remembered by cell, casting is slower."""
    known: dict[Cell, bool] = {None: value is None, UNCHANGED: False}

    def equals(cell: Cell) -> bool:
        answer = known.get(cell)
        if answer is None:
            assert isinstance(cell, bytes)
            answer = bool(shape.cast(number, cell) == value)
            if len(known) < _REMEMBERED_CELLS:
                known[cell] = answer
        return answer

    return equals


def _fields_check(unwatched: Sequence[str], shape: Shape) -> Accepts:
    watched = [number for name, number in shape.index.items() if name not in unwatched]

    def accepts(new: Sequence[Cell] | None, old: Sequence[Cell] | None) -> bool:
        if old is None or new is None:
            return True
        for number in watched:
            cell = new[number]
            if cell is not UNCHANGED and cell != old[number]:
                return True
        return False

    return accepts
