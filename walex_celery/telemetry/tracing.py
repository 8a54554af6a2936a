"""OpenTelemetry tracing: a span for each transaction, which the tasks that it causes continue.

Import it only if ``opentelemetry-api`` is installed. Attributes are named by the semantic conventions for databases,
or else begin with ``walex.``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from celery import signals
from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, create_key, detach, get_value, set_value
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from walex_celery.events.event import Event, TransactionInfo
from walex_celery.filters import Table
from walex_celery.telemetry.statistics import Statistics

logger = logging.getLogger("walex_celery.tracing")

SPAN_NAME: Final = "walex.transaction"

_TRACE_CONTEXT: Final = TraceContextTextMapPropagator()
#: Marks the context of a transaction: only what is published in it carries the context.
_DISPATCHING: Final = create_key("walex-dispatching")


def is_configured() -> bool:
    """Whether the process has a tracer provider: without one, spans go nowhere."""
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider | NoOpTracerProvider)


class Tracing:
    """Traces what one producer dispatches.

    Args:
        name: of the instance.
        database, hostname, port: of the server, as the settings have them.
        statistics: for the number of tasks.
    """

    def __init__(
        self, name: str, statistics: Statistics, *, database: str, hostname: str, port: int | str
    ) -> None:
        self._statistics = statistics
        self._tracer = trace.get_tracer("walex_celery", tracer_provider=trace.get_tracer_provider())
        self._attributes: dict[str, Any] = {
            "db.system.name": "postgresql",
            "db.namespace": database,
            "server.address": hostname,
            "server.port": port,
            "walex.name": name,
        }
        # The span of a transaction whose last chunk has not come yet, and what was dispatched of it so far.
        self._span: Span | None = None
        self._context = Context()
        self._tables: set[str] = set()
        self._events = 0
        self._tasks = 0
        # Celery's way to add a header to each message; with a receiver, the publisher sends the signal for each.
        signals.before_task_publish.connect(self._inject, weak=False)
        logger.info("tracing: a span for each transaction, and its traceparent in each task")

    def close(self) -> None:
        """End an open span, and stop adding headers to tasks."""
        signals.before_task_publish.disconnect(self._inject)
        self._end(interrupted=True)

    @contextmanager
    def transaction(
        self, info: TransactionInfo, traceparent: bytes | None, events: Sequence[Event]
    ) -> Iterator[None]:
        """Make a transaction's span current; it ends with the last chunk, or with an error.

        Args:
            info: the transaction, and which chunk of it this is.
            traceparent: what the application named as its parent.
            events: those of the chunk.
        """
        if not info.chunk or self._span is None:
            self._end(interrupted=True)
            self._begin(info, traceparent)
        span, tasks = self._span, self._statistics.tasks
        assert span is not None
        token = attach(self._context)
        try:
            yield
        except BaseException as error:
            # Its text, and its cause's, may hold row data.
            cause = error.__cause__ or error
            span.set_attribute("error.type", type(cause).__qualname__)
            span.set_status(Status(StatusCode.ERROR, type(cause).__qualname__))
            self._end()
            raise
        finally:
            detach(token)
            self._events += len(events)
            self._tasks += self._statistics.tasks - tasks
        if span.is_recording():
            sources = {id(event.source): event.source for event in events}.values()
            self._tables.update(str(Table(source.schema, source.table)) for source in sources if source.table)
        if info.last:
            self._end()

    def _begin(self, info: TransactionInfo, traceparent: bytes | None) -> None:
        attributes = {**self._attributes, "walex.lsn": str(info.lsn)}
        if info.xid is not None:
            attributes["walex.xid"] = info.xid
        # Starts from an empty context: the current one has nothing to do with this transaction.
        parent = _parent(traceparent)
        self._span = self._tracer.start_span(
            SPAN_NAME, context=parent, kind=SpanKind.CONSUMER, attributes=attributes
        )
        self._context = set_value(_DISPATCHING, True, trace.set_span_in_context(self._span, parent))
        self._tables, self._events, self._tasks = set(), 0, 0

    def _end(self, *, interrupted: bool = False) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        span.set_attribute("walex.events", self._events)
        span.set_attribute("walex.tasks", self._tasks)
        span.set_attribute("walex.tables", sorted(self._tables))
        if interrupted:
            # The connection broke, or the producer is stopping: the transaction will be read again.
            span.set_attribute("walex.interrupted", True)
        span.end()

    def _inject(self, headers: dict[str, Any] | None = None, **_: Any) -> None:
        """Receiver of before_task_publish: adds the context to the headers, where instrumentation looks for it."""
        if headers is not None and get_value(_DISPATCHING):
            propagate.inject(headers)


def _parent(traceparent: bytes | None) -> Context:
    """The context named by a message of the application; empty if there is none, or it is malformed."""
    if traceparent is None:
        return Context()
    return _TRACE_CONTEXT.extract({"traceparent": traceparent.decode("ascii", "replace")}, context=Context())
