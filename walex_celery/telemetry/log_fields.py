"""Log lines as JSON, with the subject of a line (``lsn``, ``xid``, ``table`` ...) in separate fields.

Fields hold no row data: they name a change without showing it.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from celery import Celery
from celery.app.log import TaskFormatter

from walex_celery.events.event import Event
from walex_celery.filters import Table

logger = logging.getLogger("walex_celery.logs")

#: The name and the events of the running batch handler, for what it logs.
in_hand: ContextVar[tuple[str, Sequence[Event]] | None] = ContextVar("walex_in_hand", default=None)

# Attributes of every record; any others came from extra=.
_OWN: Final = frozenset(
    {*vars(logging.LogRecord("", 0, "", 0, "", None, None)), "message", "asctime", "taskName", "color"}
)


def fields_of(handler: str, events: Sequence[Event]) -> dict[str, object]:
    """The fields of lines about a batch: handler, position, transaction, table, and number of events."""
    first = events[0]
    source = first.source
    return {
        "handler": handler,
        "lsn": str(first.lsn),
        "xid": first.xid,
        "table": str(Table(source.schema, source.table)) if source.table else None,
        "type": first.type,
        "events": len(events),
    }


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: ``time``, ``level``, ``logger``, ``message``, then its fields.

    An exception has two: ``exception``, its type, and ``traceback``. All lines logged while a batch handler runs
    have the fields of its batch.
    """

    def __init__(
        self, fmt: str | None = None, use_color: bool | None = None, datefmt: str | None = None
    ) -> None:
        # The arguments that Celery passes to a formatter; the format is fixed here.
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        batch = in_hand.get()
        fields = {} if batch is None else fields_of(*batch)
        fields |= {name: value for name, value in vars(record).items() if name not in _OWN}
        line |= {name: value for name, value in fields.items() if value is not None and name not in line}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        elif record.exc_text:
            line["traceback"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return _encode(line)


def _encode(line: dict[str, Any]) -> str:
    try:
        return msgspec.json.encode(line, enc_hook=str).decode()
    except (TypeError, ValueError, UnicodeEncodeError):
        # A key that is not text, or text with lone surrogates: what can't be JSON becomes its repr.
        return msgspec.json.encode({name: ascii(value) for name, value in line.items()}).decode()


def set_up_logging(app: Celery, *, loglevel: int, logfile: str | None, as_json: bool) -> None:
    """Set up logging as Celery does for its own commands, by the application's settings and signals.

    If the application sets up logging itself (signal ``setup_logging``), its setup stays.

    Args:
        app: the application; uses ``worker_log_format``, ``worker_log_color`` and ``worker_hijack_root_logger``.
        loglevel: of the root logger.
        logfile: instead of standard error.
        as_json: JSON lines, instead of ``worker_log_format``.
    """
    if not as_json:
        app.log.setup(loglevel=loglevel, logfile=logfile, redirect_stdouts=False)
        return
    own: Any = app.log
    # Celery has no setting for the formatter's class, but passes this argument on to where handlers are made.
    receivers = own.setup_logging_subsystem(loglevel, logfile, colorize=False, formatter=JsonFormatter)
    for handler in logging.getLogger("celery.task").handlers:
        if isinstance(handler.formatter, TaskFormatter):
            handler.setFormatter(JsonFormatter())
    if receivers:
        logger.warning(
            "--log-format json is ignored: the application sets up logging itself (signal setup_logging)"
        )
    logging.captureWarnings(True)
