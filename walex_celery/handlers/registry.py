"""The handlers that the user registered with ``on_*``, and the tasks that they name."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from celery import Celery, Task

from walex_celery.errors import ConfigurationError
from walex_celery.events.event import Event
from walex_celery.filters import ALL_TABLES, Filters, Table, filters_of, table_of
from walex_celery.handlers.kinds import DECORATORS, is_of_tables
from walex_celery.handlers.misuse import (
    check_filters,
    check_no_signature,
    check_order,
    check_parentheses,
    is_task,
)
from walex_celery.handlers.policies import OnError, on_error_of

BatchHandler = Callable[[list[Event]], Any]


class Handler(msgspec.Struct, frozen=True, eq=False):
    """One registration.

    Attributes:
        decorator: its name, ``on_insert`` and so on.
        table: ``None`` for all tables (and for messages).
        prefix: of messages; ``None`` for all, or for tables.
        filters: which events it does not want.
        functions: Celery tasks, or names of them, enqueued once an event.
        batch: the plain function called with a transaction's events, if one was decorated.
        module: where it was defined; names in ``functions`` are looked up there.
        on_error: what happens when it fails; ``None``: the setting ``on_error``.
        number: counts, from 1, those that are the same in all else.
    """

    decorator: str
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
        """Its decorator and target, as in ``on_insert(users)``; together with the name it is unique."""
        target = self.table or self.prefix or "all"
        return f"{self.decorator}({target})" + (f" #{self.number}" if self.number > 1 else "")

    @property
    def name(self) -> str:
        """In readable form: ``shop.events.users.users_inserted``, or a task's name.

        Ask for it only when it is needed: a task's proxy would finalize the application, or look for a shared
        task that is not registered yet.
        """
        if self.batch is not None:
            return f"{self.module}.{getattr(self.batch, '__name__', self.decorator)}"
        first = self.functions[0] if self.functions else self.decorator
        return first if isinstance(first, str) else str(first.name)

    @property
    def of_tables(self) -> bool:
        """Whether it is called for events of tables; if not, for messages."""
        return is_of_tables(self.decorator)

    def wants(self, table: Table, type: str) -> bool:
        """Whether events of *type* on *table* concern this handler."""
        return type in DECORATORS[self.decorator] and (self.table is None or self.table == table)

    def wants_event(self, event: Event) -> bool:
        """Whether *event* concerns this handler, filters aside."""
        if event.type == "message":
            return not self.of_tables and self.prefix in (None, event.name)
        return self.wants(Table(event.source.schema, event.source.table), event.type)


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
        decorator: str,
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
        handler = handler_of(decorator, target, filters, functions, on_error)
        if is_task(decorated):
            handler = msgspec.structs.replace(
                handler, functions=(decorated, *handler.functions), module=module
            )
        else:
            _check_batch_handler(decorator, decorated)
            handler = self._numbered(msgspec.structs.replace(handler, batch=decorated, module=module))
        self._handlers.append(handler)
        return handler

    def _numbered(self, handler: Handler) -> Handler:
        """*handler*, different from all others: the dead letters of two lambdas, say, must not be mixed up."""
        taken = {(known.name, known.registration) for known in self._handlers if known.batch is not None}
        while (handler.name, handler.registration) in taken:
            handler = msgspec.structs.replace(handler, number=handler.number + 1)
        return handler


def handler_of(
    decorator: str,
    target: Any,
    filters: Filters | Mapping[str, Any] | None,
    functions: Sequence[Any],
    on_error: OnError | str | None,
) -> Handler:
    """The handler that a decorator's arguments ask for, which has nothing decorated yet.

    Raises:
        ConfigurationError: for a table, filter, function or policy that can't be one.
    """
    check_parentheses(decorator, target)
    check_filters(decorator, filters)
    _check_functions(decorator, functions)
    table, prefix = _target_of(decorator, target)
    try:
        policy = None if on_error is None else on_error_of(on_error)
    except ValueError as error:
        raise ConfigurationError(f"{decorator}: on_error: {error}") from None
    return Handler(
        decorator=decorator,
        table=table,
        prefix=prefix,
        filters=filters_of(filters),
        functions=tuple(functions),
        batch=None,
        module="",
        on_error=policy,
    )


def _check_functions(decorator: str, functions: Sequence[Any]) -> None:
    if isinstance(functions, str) or not isinstance(functions, Sequence):
        raise ConfigurationError(
            f"{decorator}: functions are a list of tasks or of their names, not {functions!r}"
        )
    for function in functions:
        check_no_signature(decorator, function)
        if not (isinstance(function, str) or is_task(function)):
            raise ConfigurationError(
                f"{decorator}: {function!r} is no Celery task, nor the name of one; put @app.task above it"
            )


def _target_of(decorator: str, target: Any) -> tuple[Table | None, str | None]:
    """The table, or the prefix of messages, that *target* names; ``None`` for all."""
    if is_of_tables(decorator):
        return (None if target in ("all", ALL_TABLES) else table_of(target)), None
    if not isinstance(target, str):
        raise ConfigurationError(f"{decorator}: the prefix of messages is a string, not {target!r}")
    return None, (None if target == ALL_TABLES else target)


def _check_batch_handler(decorator: str, decorated: Any) -> None:
    check_no_signature(decorator, decorated)
    if not callable(decorated) or (inspect.isclass(decorated) and issubclass(decorated, Task)):
        raise ConfigurationError(f"{decorator} decorates a function or a Celery task, not {decorated!r}")
    if (
        inspect.iscoroutinefunction(decorated)
        or inspect.isasyncgenfunction(decorated)
        or inspect.isgeneratorfunction(decorated)
    ):
        # A call would only make an object that nothing runs.
        raise ConfigurationError(
            f"{decorator}: {decorated.__name__} is a coroutine or a generator; batch handlers are plain functions"
        )


def resolve_functions(app: Celery, handler: Handler) -> list[Any]:
    """The tasks of *handler*: objects where this process has them, else names for ``send_task``.

    A name is looked up in the handler's own module, then among the application's tasks; one with a dot that
    neither has is taken for a task of another code base.

    Raises:
        ConfigurationError: for a name that means nothing; or its batch handler is the function of a task.
    """
    if handler.batch is not None:
        check_order(app, handler.batch, handler.name, handler.registration)
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
