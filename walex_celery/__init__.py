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
from walex_celery.event import Change, Event, Source, TransactionInfo
from walex_celery.filters import Filters
from walex_celery.lsn import Lsn
from walex_celery.middleware import STORED, process_message_async, process_message_sync
from walex_celery.on_error import DeadLetter, Halt, Retry
from walex_celery.postgres.stream import StreamMessage
from walex_celery.producer import Producer
from walex_celery.record import Record
from walex_celery.spool import Spool
from walex_celery.types import Interval, Range

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
