"""Traces: a span for each transaction, its parent from the application, its children in the workers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import walex_celery
from tests.support import Database, shop, wait_until
from tests.support.producers import in_thread, running
from tests.support.project import Project
from walex_celery import Event, HandlerError, Producer, WalEx
from walex_celery.pipeline.run import open_tracing
from walex_celery.settings.model import load_settings
from walex_celery.telemetry.statistics import Statistics

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What a provider exports that is the process' own for one test: it can be set once only."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def make_walex(app: Celery, database: Database, **settings: object) -> WalEx:
    given = {"subscriptions": ["items", "sales.orders"], "durable_slot": False}
    return shop.make_walex(app, database, **(given | settings))


def finished(spans: InMemorySpanExporter, count: int) -> list[ReadableSpan]:
    """The spans, once there are so many."""
    wait_until(lambda: len(spans.get_finished_spans()) >= count)
    found = spans.get_finished_spans()
    assert len(found) == count
    return list(found)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_span_for_each_transaction(shop: Database, app: Celery, spans: InMemorySpanExporter) -> None:
    walex = make_walex(app, shop)
    seen: list[Event] = []
    inside: list[int] = []

    @app.task(name="shop.notify", shared=False)
    def notify(event: Event) -> None: ...

    @walex.on_event("all", functions=[notify])
    def changed(events: list[Event]) -> None:
        seen.extend(events)
        inside.append(trace.get_current_span().get_span_context().span_id)

    with running(walex):
        shop.execute(
            "BEGIN; INSERT INTO items VALUES (1), (2); INSERT INTO sales.orders VALUES (1); COMMIT;"
            " INSERT INTO items VALUES (3, 'secret')"
        )
        first, second = finished(spans, 2)

    assert (first.name, first.kind, first.parent) == ("walex.transaction", SpanKind.CONSUMER, None)
    found = attributes(first)
    assert found["db.system.name"] == "postgresql"
    assert found["db.namespace"] == shop.name
    assert found["walex.name"] == "shop"
    assert found["walex.lsn"] == str(seen[0].lsn)
    assert found["walex.xid"] == seen[0].xid
    assert found["walex.tables"] == ("items", "sales.orders")
    assert (found["walex.events"], found["walex.tasks"]) == (3, 3)
    assert attributes(second)["walex.lsn"] == str(seen[-1].lsn)
    assert first.context.trace_id != second.context.trace_id
    assert inside[0] == first.context.span_id, "what a handler does is part of it"
    assert "secret" not in second.to_json()
    assert not signals.before_task_publish.has_listeners("shop.notify"), "nothing is left behind"


@pytest.mark.parametrize("first", [True, False], ids=["before the rows", "after them"])
def test_the_application_names_the_parent(
    first: bool, shop: Database, app: Celery, spans: InMemorySpanExporter
) -> None:
    walex = make_walex(app, shop)
    walex.on_insert("items")(_ignore)
    message = f"SELECT pg_logical_emit_message(true, 'traceparent', '00-{TRACE}-{SPAN}-01')"
    row = "INSERT INTO items VALUES (1)"
    with running(walex):
        shop.execute(f"BEGIN; {message if first else row}; {row if first else message}; COMMIT")
        shop.execute("INSERT INTO items VALUES (2)")
        named, other = finished(spans, 2)

    assert named.parent is not None
    assert (f"{named.context.trace_id:032x}", f"{named.parent.span_id:016x}") == (TRACE, SPAN)
    assert other.parent is None, "it holds for its own transaction"


@pytest.mark.parametrize(
    "written",
    [
        "'00-zz-01'",
        f"'00-{'0' * 32}-{SPAN}-01'",
        f"'ff-{TRACE}-{SPAN}-01'",
        "''",
        r"'\xff00'::bytea",
        f"repeat('00-{TRACE}-', 1000)",
    ],
)
def test_a_malformed_parent_is_ignored(
    written: str, shop: Database, app: Celery, spans: InMemorySpanExporter
) -> None:
    walex = make_walex(app, shop)
    walex.on_insert("items")(_ignore)
    with running(walex):
        shop.execute(
            f"BEGIN; SELECT pg_logical_emit_message(true, 'traceparent', {written});"
            " INSERT INTO items VALUES (1); COMMIT"
        )
        [span] = finished(spans, 1)

    assert span.parent is None


def test_the_first_that_is_well_formed_counts_and_none_outside_of_transactions(
    shop: Database, app: Celery, spans: InMemorySpanExporter
) -> None:
    walex = make_walex(app, shop)
    walex.on_insert("items")(_ignore)
    emit = "SELECT pg_logical_emit_message({}, 'traceparent', '{}')"
    with running(walex):
        shop.execute(emit.format("false", f"00-{TRACE}-{'a' * 16}-01"))
        shop.execute(
            "; ".join(
                [
                    "BEGIN",
                    emit.format("true", "nonsense"),
                    emit.format("true", f"00-{TRACE}-{SPAN}-01"),
                    emit.format("true", f"00-{TRACE}-{'b' * 16}-01"),
                    "INSERT INTO items VALUES (1)",
                    "COMMIT",
                ]
            )
        )
        shop.execute("INSERT INTO items VALUES (2)")
        first, second = finished(spans, 2)

    assert first.parent is not None
    assert f"{first.parent.span_id:016x}" == SPAN
    assert second.parent is None


def test_a_large_transaction_is_one_span(shop: Database, app: Celery, spans: InMemorySpanExporter) -> None:
    walex = make_walex(app, shop)
    walex.on_insert("items")(_ignore)
    with running(walex):
        shop.execute(
            f"BEGIN; SELECT pg_logical_emit_message(true, 'traceparent', '00-{TRACE}-{SPAN}-01');"
            " INSERT INTO items SELECT generate_series(1, 2500); COMMIT"
        )
        [span] = finished(spans, 1)

    assert attributes(span)["walex.events"] == 2500
    assert span.parent is not None


def test_a_handler_that_raises_is_told_without_its_words(
    shop: Database, app: Celery, spans: InMemorySpanExporter
) -> None:
    walex = make_walex(app, shop)

    @walex.on_insert("items")
    def failing(events: list[Event]) -> None:
        raise ValueError("secret words")

    producer = Producer(walex)
    with in_thread(producer) as failures:
        wait_until(producer.streaming.is_set)
        shop.execute("INSERT INTO items VALUES (1)")
        wait_until(lambda: failures)
        assert isinstance(failures.pop(), HandlerError)
    [span] = finished(spans, 1)

    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "ValueError"
    assert "secret" not in span.to_json()


def test_without_a_provider_nothing_changes(
    shop: Database, app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    walex = make_walex(app, shop)

    @walex.on_insert("items")
    @app.task(name="shop.notify", shared=False)
    def notify(event: Event) -> None: ...

    with caplog.at_level("INFO"), running(walex) as producer:
        assert producer._run is not None
        assert producer._run.tracing is None
        assert not signals.before_task_publish.has_listeners("shop.notify")
    assert "Task shop.notify is published from a template, the fastest way" in caplog.text


def test_without_opentelemetry_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    # As import does where the package is not installed.
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "walex_celery.telemetry.tracing", raising=False)
    monkeypatch.delattr(walex_celery, "tracing", raising=False)
    settings = load_settings({"name": "shop", "url": "postgresql://db/shop", "publication": "events"}, {})

    assert open_tracing(settings, Statistics()) is None


MODULE = """
    import os, sys
    from celery import Celery
    from opentelemetry import trace
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
    from walex_celery import WalEx

    role = "producer" if "producer" in sys.argv else "worker"
    provider = TracerProvider()
    output = open(f"{role}.spans", "a", buffering=1)
    exporter = ConsoleSpanExporter(out=output, formatter=lambda span: span.to_json(indent=None) + chr(10))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    if role == "worker" or os.environ.get("INSTRUMENT_PRODUCER"):
        CeleryInstrumentor().instrument()

    app = Celery("shop", broker=os.environ["BROKER_URL"])
    walex = WalEx(app, publication="events", subscriptions=["items"])

    @walex.on_insert("items")
    @app.task(name="shop.notify")
    def notify(event):
        pass
"""


@pytest.mark.parametrize("instrumented", [False, True], ids=["plain producer", "instrumented producer"])
def test_a_worker_continues_the_trace(
    instrumented: bool, shop: Database, redis_url: str, tmp_path: Path
) -> None:
    """With the real SDK and instrumentation, each in its own process: application, producer, worker."""
    project = Project(tmp_path)
    project.write({"traced_shop.py": MODULE})
    environment = {
        "BROKER_URL": redis_url,
        "WALEX_URL": shop.url,
        "WALEX_SLOT_NAME": shop.name,
        "INSTRUMENT_PRODUCER": "yes" if instrumented else "",
    }
    producer = ("-A", "traced_shop", "walex", "producer")
    worker = ("-A", "traced_shop", "worker", "--pool=solo", "--without-gossip", "--without-mingle")
    with project.command(*producer, **environment), project.command(*worker, **environment):
        wait_until(lambda: "streaming from" in project.output(*producer), 60)
        shop.execute(
            f"BEGIN; SELECT pg_logical_emit_message(true, 'traceparent', '00-{TRACE}-{SPAN}-01');"
            " INSERT INTO items VALUES (1), (2); COMMIT"
        )
        wait_until(lambda: len(_spans(tmp_path, "worker")) == 2, 60)
        wait_until(lambda: "walex.transaction" in str(_spans(tmp_path, "producer")))
    ran, sent = _spans(tmp_path, "worker"), _spans(tmp_path, "producer")

    [transaction] = [span for span in sent if span["name"] == "walex.transaction"]
    published = [span for span in sent if span["name"] == "apply_async/shop.notify"]
    assert transaction["parent_id"] == f"0x{SPAN}"
    assert {span["name"] for span in ran} == {"run/shop.notify"}
    assert {span["context"]["trace_id"] for span in [transaction, *published, *ran]} == {f"0x{TRACE}"}
    parents = {span["parent_id"] for span in ran}
    if instrumented:
        assert parents == {span["context"]["span_id"] for span in published}
        assert {span["parent_id"] for span in published} == {transaction["context"]["span_id"]}
    else:
        assert not published
        assert parents == {transaction["context"]["span_id"]}
    way = "published from a template, slower because receivers are called for each message: "
    assert f"{way}a receiver of the signal before_task_publish is connected" in project.output(*producer)


def _spans(folder: Path, role: str) -> list[dict[str, Any]]:
    path = folder / f"{role}.spans"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _ignore(events: list[Event]) -> None: ...
