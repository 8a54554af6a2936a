"""Checks of the Celery application: its handlers, its settings, and the libraries that it uses."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Final

from walex_celery.database.finding import Finding, do, python, shell
from walex_celery.database.registry import LeftOut, check
from walex_celery.database.requirements import unsubscribed_handlers, wants_rows, where_handlers_go
from walex_celery.database.schema import did_you_mean, meant_by, missing_tables
from walex_celery.errors import ConfigurationError
from walex_celery.filters import Table
from walex_celery.handlers.registry import Handler
from walex_celery.operations.doctor.context import Context
from walex_celery.operations.doctor.error_finding import finding_of

_NEEDED: Final = {"celery": (5, 7), "kombu": (5, 7)}
_POOLER_HOSTS: Final = ("-pooler.", "pooler.supabase.com")
_JSON: Final = frozenset({"json", "application/json"})


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


@check("celery and kombu are new enough")
def versions(context: Context) -> Iterator[Finding]:
    """The versions of Celery and kombu."""
    for library, needed in _NEEDED.items():
        found = importlib.metadata.version(library)
        major, minor = (int(part) for part in found.split(".")[:2])
        if (major, minor) < needed:
            wanted = ".".join(map(str, needed))
            yield Finding(
                "versions",
                "error",
                f"{library} {found} is too old; {wanted} or newer is needed",
                shell(f"pip install '{library}>={wanted}'"),
            )


@check("hostname= is not a known connection pooler")
def pooler(context: Context) -> Iterator[Finding]:
    """The poolers of Supabase and Neon don't support replication connections."""
    host = context.settings.hostname
    if any(part in host for part in _POOLER_HOSTS):
        yield Finding(
            "pooler",
            "error",
            f"hostname= {host!r} is a connection pooler, which can't stream replication",
            do(
                "Set hostname= (or the url) to the server's own address: db.PROJECT.supabase.co:5432 at Supabase, the "
                "host without -pooler at Neon"
            ),
        )


@check("there are handlers")
def handlers_exist(context: Context) -> Iterator[Finding]:
    """Without handlers, the slot is read for nothing."""
    if not context.handlers:
        settings = context.settings
        yield Finding(
            "handlers_exist",
            "error" if settings.durable_slot else "warning",
            "no handler is registered: "
            + ("the producer does not start" if settings.durable_slot else "changes are read and dropped"),
            do(_sentence(where_handlers_go(settings))),
        )


@check("the handlers' tables are subscribed")
def handlers_subscribed(context: Context) -> Iterator[Finding]:
    """Handlers of tables that are not in ``subscriptions`` are never called."""
    schema, settings = context.known_schema, context.settings
    lacking: dict[Table, list[Handler]] = {}
    for handler in unsubscribed_handlers(settings, context.handlers):
        assert handler.table is not None
        lacking.setdefault(handler.table, []).append(handler)
    if not settings.subscriptions and wants_rows(context.handlers):
        tables = [str(table) for table in lacking] or ["*"]
        yield Finding(
            "handlers_subscribed",
            "error",
            "subscriptions is empty: changes of all tables are ignored",
            python(f"subscriptions={tables!r}"),
        )
        return
    misspelt = missing_tables(schema, settings) if schema else []
    for table, handlers in lacking.items():
        names = ", ".join(handler.name for handler in handlers)
        if schema and table not in schema.tables:
            # Of those that are subscribed, if any: the handler was meant to be called.
            close = meant_by(table, settings.tables) or meant_by(table, schema.tables)
            yield Finding(
                "handlers_subscribed",
                "error",
                f"the handler {names} is for {table}, but database {settings.database!r} has no such table"
                f"{did_you_mean(map(str, close))}: it is never called",
                do(f"Correct the table in {', '.join(handler.registration for handler in handlers)}"),
            )
        elif schema and any(table in meant_by(other, schema.tables) for other in misspelt):
            continue  # tables_exist names the cause
        else:
            yield Finding(
                "handlers_subscribed",
                "error",
                f"{table} has the handler {names} but is not in subscriptions: it is never called",
                python(f"subscriptions=[..., {str(table)!r}]"),
            )


@check("every subscription has a handler")
def subscriptions_handled(context: Context) -> Iterator[Finding]:
    """Subscribed tables without a handler, unless that follows from what another check finds."""
    if not wants_rows(context.handlers):
        raise LeftOut  # handlers_exist
    schema, settings = context.known_schema, context.settings
    # Misspelt there or here: handlers_subscribed and tables_exist.
    tables = set(schema.tables) if schema else set(settings.tables)
    elsewhere = [
        handler.table
        for handler in unsubscribed_handlers(settings, context.handlers)
        if handler.table is not None and not (schema and handler.table in tables)
    ]
    meant = {other for table in elsewhere for other in meant_by(table, settings.tables)}
    for table in settings.tables:
        if (
            table in tables
            and table not in meant
            and not any(handler.table in (None, table) for handler in context.handlers if handler.of_tables)
        ):
            yield Finding(
                "subscriptions_handled",
                "info",
                f"{table} is subscribed to, but has no handler: its changes are ignored",
            )


def _need_transport(context: Context) -> None:
    """Leave a check out that needs the transport of ``broker_url``, where kombu does not have it."""
    try:
        context.new_link().close()
    except ConfigurationError:
        raise LeftOut from None  # the check "broker" says why


@check("the handlers' functions can be sent as tasks")
def functions(context: Context) -> Iterator[Finding]:
    """Each function is a Celery task that takes an event and that can be published."""
    _need_transport(context)
    for error in context.function_errors:
        yield finding_of("functions", "error", error)


@check("the handlers' functions are known here")
def functions_known(context: Context) -> Iterator[Finding]:
    """A task that is known by its name only is sent without its own options."""
    _need_transport(context)
    for function in context.functions:
        if not function.is_known:
            yield Finding(
                "functions_known",
                "warning",
                f"task {function.name} is not known to this process, only its name: its own options (queue, priority, "
                "expires, serializer and others) are lost",
                do(
                    "Import its module here too (include=[...]); for a task of another code base, give its queue and "
                    "priority in task_routes"
                ),
            )


@check("workers accept JSON")
def accept_content(context: Context) -> Iterator[Finding]:
    """Events are sent as JSON; a worker discards content types that it does not accept."""
    accepted = {str(content) for content in context.app.conf.accept_content or ()}
    if not accepted & _JSON:
        listed = ", ".join(map(repr, ["json", *sorted(accepted)]))
        yield Finding(
            "accept_content",
            "error",
            f"accept_content is {sorted(accepted)}: workers discard tasks in JSON, as events are sent",
            python(f"app.conf.accept_content = [{listed}]"),
        )


@check("tasks run in workers")
def eager(context: Context) -> Iterator[Finding]:
    """``task_always_eager`` is for tests: it runs tasks in the producer."""
    if context.app.conf.task_always_eager:
        yield Finding(
            "eager",
            "warning",
            "task_always_eager is set: tasks run in the producer, one after another, and never reach a worker",
            python("app.conf.task_always_eager = False"),
        )


@check("no unread results are stored")
def result_backend(context: Context) -> Iterator[Finding]:
    """With the ``rpc`` backend, results go to a queue that the producer never reads."""
    backend = str(context.app.conf.result_backend or "")
    if not backend.startswith("rpc") or context.app.conf.task_ignore_result:
        return
    names = [
        function.name
        for function in context.functions
        if not getattr(context.app.tasks.get(function.name), "ignore_result", False)
    ]
    if names:
        yield Finding(
            "result_backend",
            "warning",
            f"results of {', '.join(names)} go to a reply queue (result_backend = 'rpc://') that the producer never "
            "reads",
            python("@app.task(ignore_result=True)"),
        )
