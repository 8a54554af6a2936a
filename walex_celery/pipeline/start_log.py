"""What the log says when the producer starts: from where it reads, to whom it sends, and what may go wrong with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from celery import Celery

from walex_celery._speedups import speedups
from walex_celery.broker import TaskTarget, durability
from walex_celery.database.requirements import where_handlers_go
from walex_celery.errors import ConfigurationError, WalExError
from walex_celery.events.event import printable, short
from walex_celery.handlers.policies import Halt, OnError
from walex_celery.handlers.registry import Handler
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.server import Server
from walex_celery.settings.model import WalExSettings

# The producer's logger: whoever filters its lines gets these too.
logger = logging.getLogger("walex_celery.producer")


def subscribed(settings: WalExSettings) -> str:
    """The subscriptions, as readable text."""
    return ", ".join(map(str, settings.subscriptions)) or "nothing"


def report_no_handlers(settings: WalExSettings) -> None:
    """Say that there is no handler; one that is added while the producer runs comes too late for what it dropped.

    Raises:
        ConfigurationError: the slot is durable, so that something counts on it. A middleware of the user's own may be
            all that handles the changes; a spool is not.
    """
    middleware = settings.message_middleware
    fix = f"\n  fix: {where_handlers_go(settings)}"
    if settings.durable_slot and (middleware is None or getattr(middleware, "needs_durable_slot", False)):
        raise ConfigurationError(
            f"no handler is registered, and the slot {settings.slot} is durable: each change would be dropped and "
            f"acknowledged, and would never come again{fix}"
        )
    logger.warning("no handler is registered: each change is dropped%s", fix)


def log_start(
    settings: WalExSettings,
    server: Server,
    handlers: Iterable[Handler],
    *,
    functions: Callable[[Handler], Iterable[TaskTarget]],
    policy: Callable[[Handler], OnError],
    broker: str,
    created: bool,
    lsn: Lsn,
) -> None:
    """Log the server, the slot, who handles what and how it fails, and the broker.

    Args:
        settings: those in force.
        server: streamed from.
        handlers: all that are registered.
        functions: the functions of a handler.
        policy: what happens when a handler fails.
        broker: its address, without a password.
        created: whether the slot was made now.
        lsn: up to where all was done before.
    """
    durable = "durable" if settings.durable_slot else "temporary"
    about = {"slot": settings.slot, "database": settings.database, "lsn": str(lsn)}
    major = server.version // 10000
    logger.info("streaming from %s (Postgres %s)", settings.address(), major, extra=about)
    made = "made now" if created else "found"
    logger.info("slot %s (%s, %s)", settings.slot, durable, made, extra={"slot": settings.slot})
    logger.info("publication %s; subscribed to %s", ", ".join(settings.publication), subscribed(settings))
    for handler in handlers:
        about = {"handler": handler.name, "table": str(handler.table or handler.prefix or "all")}
        does = _in_words(handler, settings, functions(handler), policy(handler))
        logger.info("%s -> %s", handler.registration, does, extra=about)
    logger.info("broker %s", broker)
    if speedups.compiled:
        logger.info("the compiled part is used")
    else:
        logger.info("all in Python, a third as fast as with the compiled part: %s", speedups.absence)
    for handler in handlers:
        if handler.table is not None and not settings.subscribes_to(handler.table):
            logger.warning(
                "%s handles %s, which is not in subscriptions: it will get nothing",
                handler.name,
                handler.table,
                extra={"handler": handler.name, "table": str(handler.table)},
            )
    if not settings.durable_slot:
        logger.warning(
            "the slot is temporary: changes made while no producer runs are not seen (durable_slot=True)"
        )


def _in_words(
    handler: Handler, settings: WalExSettings, functions: Iterable[TaskTarget], on_error: OnError
) -> str:
    """What is called and enqueued for a handler's events, for which of them, and what happens if it fails."""
    called = [] if handler.batch is None else [f"{handler.name} (batch handler)"]
    clauses = [", ".join([*called, *(f"{function.name} (task)" for function in functions)])]
    if handler.of_tables and handler.table is None:
        clauses.append(f"of {'all published tables' if settings.all_tables else subscribed(settings)}")
    if unwatched := handler.filters.unwatched_records:
        values = " and ".join(f"{name}={short(repr(value))}" for name, value in unwatched.items())
        clauses.append(f"drops events with {printable(values)}")
    if handler.filters.unwatched_fields:
        columns = ", ".join(handler.filters.unwatched_fields)
        clauses.append(f"drops updates of nothing but {printable(columns)}")
    if not isinstance(on_error, Halt):
        clauses.append(f"on_error={on_error}")
    return "; ".join(clauses)


_LEVELS: Final = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}


def log_weaknesses(app: Celery, functions: Iterable[TaskTarget]) -> None:
    """Log what the broker may lose after it confirmed it. If that cannot be examined, only say so."""
    try:
        found = durability.examine(app, functions)
    except WalExError as error:
        logger.info("could not examine what the broker may lose: %s", error)
        return
    for weakness in found:
        logger.log(
            _LEVELS[weakness.severity],
            "%s%s",
            weakness.sentence,
            f" Fix: {weakness.fix}" if weakness.fix else "",
        )
