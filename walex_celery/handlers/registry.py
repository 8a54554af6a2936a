"""What the user registered with ``on_*``, and which of it a table's events reach.

A :class:`Registry` holds the handlers in the order they were registered; :func:`route_of` picks those of
one table and type and compiles their filters to work on the cells of a row.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from celery import Celery, Task
from celery.local import Proxy

from walex_celery.errors import ConfigurationError
from walex_celery.events.event import Event
from walex_celery.events.record import UNCHANGED, Cell, Shape
from walex_celery.filters import ALL_TABLES, Filters, Table, filters_of, table_of
from walex_celery.handlers.policies import OnError, on_error_of
from walex_celery.telemetry.statistics import Tally

BatchHandler = Callable[[list[Event]], Any]

#: The types of events that a handler registered by each ``on_*`` sees.
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "on_event": ("insert", "update", "delete", "truncate"),
    "on_insert": ("insert",),
    "on_update": ("update",),
    "on_delete": ("delete",),
    "on_truncate": ("truncate",),
    "on_message": ("message",),
}

# How many different cells of an unwatched column are remembered; columns used so (flags) have few values.
_REMEMBERED_CELLS = 1024


class Handler(msgspec.Struct, frozen=True, eq=False):
    """One registration.

    Attributes:
        kind: the decorator's name, ``on_insert`` and so on.
        table: ``None`` for all tables (and for messages).
        prefix: of messages; ``None`` for all, or for other kinds.
        filters: what it does not want to see.
        functions: Celery tasks, or names of them, enqueued once an event.
        batch: the plain function called with a transaction's events, if one was decorated.
        module: where it was defined; names in ``functions`` are looked up there.
        on_error: what happens when it fails; ``None``: what the setting says.
        number: which of those that are the same but for this, from 1.
    """

    kind: str
    table: Table | None
    prefix: str | None
    filters: Filters
    functions: tuple[Any, ...]
    batch: BatchHandler | None
    module: str
    on_error: OnError | None = None
    number: int = 1

    @property
    def registration(self) -> str:
        """What it was registered for, as in ``on_insert(users)``: with the name, what tells it from all others."""
        target = self.table or self.prefix or "all"
        return f"{self.kind}({target})" + (f" #{self.number}" if self.number > 1 else "")

    @property
    def name(self) -> str:
        """For people: ``shop.events.users.users_inserted``, or a task's name.

        Not to be asked before it is needed: a task's proxy would finalize the application, or look for a shared
        task that is not registered yet.
        """
        if self.batch is not None:
            return f"{self.module}.{getattr(self.batch, '__name__', self.kind)}"
        first = self.functions[0] if self.functions else self.kind
        return first if isinstance(first, str) else str(first.name)

    def wants(self, table: Table, type: str) -> bool:
        """Whether events of *type* on *table* concern this handler."""
        return type in KINDS[self.kind] and (self.table is None or self.table == table)


def is_task(candidate: object) -> bool:
    """Whether *candidate* is a Celery task, or the proxy that ``@app.task`` gives before the app is finalized."""
    # type(), not isinstance(): asking a proxy for its class would finalize the app while it is being defined.
    return issubclass(type(candidate), Proxy) or isinstance(candidate, Task)


class Registry:
    """The handlers of one application, in the order they were registered."""

    def __init__(self) -> None:
        self._handlers: list[Handler] = []

    def __iter__(self) -> Iterator[Handler]:
        return iter(tuple(self._handlers))

    def __len__(self) -> int:
        return len(self._handlers)

    def add(
        self,
        kind: str,
        target: Any,
        filters: Filters | Mapping[str, Any] | None,
        functions: Sequence[Any],
        decorated: Any,
        module: str,
        on_error: OnError | str | None = None,
    ) -> Handler:
        """Register *decorated*, a plain function or a Celery task of *module*, for *target*.

        Raises:
            ConfigurationError: for a table, filter, function or policy that can't be one.
        """
        if isinstance(functions, str) or not isinstance(functions, Sequence):
            raise ConfigurationError(
                f"{kind}: functions are a list of tasks or of their names, not {functions!r}"
            )
        for function in functions:
            if not (isinstance(function, str) or is_task(function)):
                raise ConfigurationError(
                    f"{kind}: {function!r} is no Celery task, nor the name of one; put @app.task above it"
                )
        table, prefix = None, None
        if kind == "on_message":
            if not isinstance(target, str):
                raise ConfigurationError(f"{kind}: the prefix of messages is a string, not {target!r}")
            prefix = None if target == ALL_TABLES else target
        elif target not in ("all", ALL_TABLES):
            table = table_of(target)
        task = is_task(decorated)
        if not task and not callable(decorated):
            raise ConfigurationError(f"{kind} decorates a function or a Celery task, not {decorated!r}")
        if not task and (
            inspect.iscoroutinefunction(decorated)
            or inspect.isasyncgenfunction(decorated)
            or inspect.isgeneratorfunction(decorated)
        ):
            # Called, it would do nothing at all.
            raise ConfigurationError(
                f"{kind}: {decorated.__name__} is a coroutine or a generator; batch handlers are plain functions"
            )
        try:
            policy = None if on_error is None else on_error_of(on_error)
        except ValueError as error:
            raise ConfigurationError(f"{kind}: on_error: {error}") from None
        handler = Handler(
            kind=kind,
            table=table,
            prefix=prefix,
            filters=filters_of(filters),
            functions=((decorated,) if task else ()) + tuple(functions),
            batch=None if task else decorated,
            module=module,
            on_error=policy,
        )
        if not task:
            # Two lambdas of a module, say: their dead letters must not be taken for one another's.
            named = (handler.name, handler.registration)
            while any((known.name, known.registration) == named for known in self._handlers if known.batch):
                handler = msgspec.structs.replace(handler, number=handler.number + 1)
                named = (handler.name, handler.registration)
        self._handlers.append(handler)
        return handler


def resolve_functions(app: Celery, handler: Handler) -> list[Any]:
    """The tasks of *handler*: objects where this process has them, else names for ``send_task``.

    A name is looked up in the handler's own module, then among the application's tasks; one with a dot that
    neither has is taken for a task of another code base.

    Raises:
        ConfigurationError: for a name that means nothing.
    """
    return [_resolve(app, handler, function) for function in handler.functions]


def _resolve(app: Celery, handler: Handler, function: Any) -> Any:
    if not isinstance(function, str):
        return app.tasks.get(function.name, function)
    attribute = getattr(sys.modules.get(handler.module), function, None)
    if attribute is not None:
        if is_task(attribute):
            return app.tasks.get(attribute.name, attribute)
        raise ConfigurationError(
            f"handler {handler.name}: {handler.module}.{function} is no Celery task; put @app.task above it"
        )
    if function in app.tasks:
        return app.tasks[function]
    if "." in function:
        return function
    raise ConfigurationError(
        f"handler {handler.name}: no function {function!r} in {handler.module}, and no such Celery task; "
        f"define it there with @app.task, or give its full task name"
    )


#: Whether a handler wants a row: (new cells, old cells when the whole old row is known).
Accepts = Callable[[Sequence[Cell] | None, Sequence[Cell] | None], bool]


class Subscriber(NamedTuple):
    """A handler with its filters compiled for one table; ``accepts`` is ``None`` where it takes all."""

    handler: Handler
    accepts: Accepts | None


class Route:
    """The handlers that want the events of one table and type, in the order they were registered.

    ``targets`` is the dispatcher's: the functions of these handlers, resolved when first needed. ``tally`` counts
    the events, those of its parts included. ``takes_all``: no row is filtered.
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
        """Those of them that want this row; ``None`` if nobody does."""
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
    registry: Iterable[Handler], table: Table, type: str, shape: Shape, tally: Tally | None = None
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
            if handler.kind == "on_message" and handler.prefix in (None, prefix)
        ],
        tally,
    )


def compile_filters(filters: Filters, type: str, shape: Shape) -> Accepts | None:
    """*filters* as a function of a row's cells, the same as ``filters.accepts(event)``; ``None`` takes all."""
    checks = []
    # A column that the table does not have never holds the unwatched value, so nothing is dropped by it.
    if filters.unwatched_records and all(name in shape.index for name in filters.unwatched_records):
        checks.append(_record_check(filters.unwatched_records, shape))
    if filters.unwatched_fields and type == "update":
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
