"""Postgres change data capture for Celery: listen to changes of tables, act on them in tasks.

Workers import this package too. What only a producer needs is imported when it is first asked for (PEP 562), so a
worker loads neither psycopg2 nor the pipeline.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from walex_celery.app import WalEx
from walex_celery.errors import (
    BrokerUnavailable,
    ConfigurationError,
    DecodeError,
    HandlerError,
    MiddlewareError,
    PublishRefused,
    SetupError,
    SlotInUse,
    SpoolError,
    WalExError,
)
from walex_celery.events.event import Change, Event, Source, TransactionInfo
from walex_celery.events.record import Record
from walex_celery.events.values import Interval, Range
from walex_celery.events.wire import register as _register
from walex_celery.filters import Filters
from walex_celery.handlers.policies import DeadLetter, Halt, Retry
from walex_celery.postgres.lsn import Lsn

if TYPE_CHECKING:
    from walex_celery.pipeline.producer import Producer
    from walex_celery.postgres.stream import StreamMessage
    from walex_celery.sources.middleware import STORED, process_message_async, process_message_sync
    from walex_celery.sources.spool import Spool

__all__ = [
    "STORED",
    "BrokerUnavailable",
    "Change",
    "ConfigurationError",
    "DeadLetter",
    "DecodeError",
    "Event",
    "Filters",
    "Halt",
    "HandlerError",
    "Interval",
    "Lsn",
    "MiddlewareError",
    "Producer",
    "PublishRefused",
    "Range",
    "Record",
    "Retry",
    "SetupError",
    "SlotInUse",
    "Source",
    "Spool",
    "SpoolError",
    "StreamMessage",
    "TransactionInfo",
    "WalEx",
    "WalExError",
    "process_message_async",
    "process_message_sync",
]

#: Where the names are that are loaded on first use.
_LAZY: Final = {
    "STORED": "walex_celery.sources.middleware",
    "Producer": "walex_celery.pipeline.producer",
    "Spool": "walex_celery.sources.spool",
    "StreamMessage": "walex_celery.postgres.stream",
    "process_message_async": "walex_celery.sources.middleware",
    "process_message_sync": "walex_celery.sources.middleware",
}


if not TYPE_CHECKING:  # or type checkers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        module = _LAZY.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(module), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Whoever imports this package gets an Event where a task's message has one.
_register()
