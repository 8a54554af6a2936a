"""Decorators used wrongly: what was likely meant, and the line that is right."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from celery import Celery, Task
from celery.canvas import Signature
from celery.local import Proxy

from walex_celery.errors import ConfigurationError
from walex_celery.filters import Filters
from walex_celery.handlers.kinds import is_of_tables


def is_task(candidate: object) -> bool:
    """Whether *candidate* is a Celery task, or the proxy that ``@app.task`` gives before the app is finalized."""
    # type(), not isinstance(): asking a proxy for its class would finalize the app while it is being defined.
    return issubclass(type(candidate), Proxy) or isinstance(candidate, Task)


def is_decorated(candidate: object) -> bool:
    """Whether *candidate* is what decorators stand above: a task, or a function."""
    return is_task(candidate) or inspect.isroutine(candidate)


def check_parentheses(decorator: str, target: Any) -> None:
    """Check that *target* is not what was to be decorated.

    Raises:
        ConfigurationError: the decorator stands without parentheses.
    """
    if is_decorated(target):
        example = "users" if is_of_tables(decorator) else "prefix"
        raise ConfigurationError(
            f"{decorator}: it stands without parentheses, and would register nothing\n"
            f'  fix: @walex.{decorator}("{example}")'
        )


def check_filters(decorator: str, filters: Any) -> None:
    """Check that *filters* are none of the functions, which come third.

    Raises:
        ConfigurationError: they are.
    """
    # By its type: asking a task's proxy for its class would finalize the app. A signature is a mapping too.
    kind = type(filters)
    if filters is None or (issubclass(kind, Mapping | Filters) and not issubclass(kind, Signature)):
        return
    what = "a task" if is_task(filters) else f"a {kind.__name__}"
    as_list = "" if isinstance(filters, list | tuple) else ", as a list"
    names = filters if isinstance(filters, list | tuple) else [filters]
    # Asking a task's proxy for its name would finalize the app.
    shown = repr(list(names)) if all(isinstance(name, str) for name in names) else "[...]"
    raise ConfigurationError(
        f"{decorator}: the second argument is filters, not {what}; functions come third, or by name{as_list}\n"
        f"  fix: @walex.{decorator}(..., functions={shown})"
    )


def check_no_signature(decorator: str, candidate: Any) -> None:
    """Check that *candidate* is not a call of a task, instead of the task.

    Raises:
        ConfigurationError: it is.
    """
    if not isinstance(candidate, Signature):
        return
    name = str(candidate.task)
    if name.startswith("celery."):
        fix = f"decorate a task that calls it: def send(event): {name.removeprefix('celery.')}(...).delay()"
    else:
        options = ", ".join(f"{key}={value!r}" for key, value in candidate.options.items())
        given = f"@app.task({options})" if options else "@app.task"
        fix = (
            f"give the task its options, {given} or task_routes, and decorate the task itself, or name it: "
            f"functions=[{name!r}]"
        )
    raise ConfigurationError(
        f"{decorator}: it decorates a signature of {name}, which would be called in the producer, with a list\n"
        f"  fix: {fix}"
    )


def check_order(app: Celery, batch: Any, name: str, registration: str) -> None:
    """Check that a batch handler is not the function of a task: ``@app.task`` above ``@walex.on_...``.

    Args:
        app: the application, whose tasks are made by now.
        batch: the function.
        name: the handler's.
        registration: its decorator and target.

    Raises:
        ConfigurationError: it is.
    """
    if any(batch is function for task in app.tasks.values() for function in _functions_of(task)):
        decorator = registration.partition("(")[0]
        raise ConfigurationError(
            f"handler {name}: @app.task stands above @walex.{registration}, so the function would be called in the "
            "producer, with a list of events, and no task be sent\n"
            f"  fix: put @walex.{decorator}(...) above @app.task"
        )


def _functions_of(task: Any) -> Iterator[Any]:
    """What a task runs: its function, and those that decorators have wrapped."""
    function = getattr(task, "__wrapped__", None)
    while function is not None:
        function = getattr(function, "__func__", function)  # of a bound task
        yield function
        function = getattr(function, "__wrapped__", None)
