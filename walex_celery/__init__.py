"""Postgres change data capture for Celery: listen to changes of tables, act on them in tasks."""

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
from walex_celery.filters import Filters
from walex_celery.handlers.policies import DeadLetter, Halt, Retry
from walex_celery.pipeline.producer import Producer
from walex_celery.postgres.lsn import Lsn
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
