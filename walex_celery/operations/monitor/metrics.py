"""What a producer counts, as Prometheus reads it: collected when it is asked for, nothing is done in between.

Names and units follow https://prometheus.io/docs/practices/naming/. Every series has the label ``name``, the
instance's: several may run in a process, or be scraped by one Prometheus.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

import celery
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from walex_celery._speedups import speedups
from walex_celery.filters import Table
from walex_celery.operations.monitor.observer import Observer
from walex_celery.pipeline.producer import Producer
from walex_celery.telemetry.activity import Doing
from walex_celery.telemetry.statistics import BOUNDS, Durations, HandlerTally

_NAME = "name"


class Exposition:
    """Producers' metrics as text.

    Args:
        watched: the producers, each with what watches it.
    """

    def __init__(self, watched: Iterable[tuple[Producer, Observer]]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(ProducersCollector(watched))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, in the format that the ``Accept`` header *accept* asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class ProducersCollector(Collector):
    """Reads :class:`~walex_celery.telemetry.statistics.Statistics`, and the rest, of *watched* producers."""

    def __init__(self, watched: Iterable[tuple[Producer, Observer]]) -> None:
        self._watched = list(watched)

    def collect(self) -> Iterator[Metric]:
        """All metrics, now."""
        families = [
            metric
            for producer, observer in self._watched
            for family in _FAMILIES
            for metric in family(producer, observer)
        ]
        merged: dict[str, Metric] = {}
        for metric in families:
            # A family is told once, with the samples of all producers.
            known = merged.setdefault(metric.name, metric)
            if known is not metric:
                known.samples.extend(metric.samples)
        yield from merged.values()


def _instance(producer: Producer) -> str:
    return producer.walex.settings.name


def _gauge(producer: Producer, name: str, help: str, value: float | bool | None) -> Iterator[Metric]:
    """One value; nothing where it is not known."""
    if value is not None:
        metric = GaugeMetricFamily(f"walex_{name}", help, labels=[_NAME])
        metric.add_metric([_instance(producer)], float(value))
        yield metric


def _counter(producer: Producer, name: str, help: str, value: float) -> Iterator[Metric]:
    metric = CounterMetricFamily(f"walex_{name}", help, labels=[_NAME])
    metric.add_metric([_instance(producer)], value)
    yield metric


def _histogram(metric: HistogramMetricFamily, labels: list[str], durations: Durations) -> None:
    counts = list(durations.buckets)
    total = 0
    buckets = []
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    metric.add_metric(labels, buckets, durations.sum)


def _process(producer: Producer, observer: Observer) -> Iterator[Metric]:
    labels = [_NAME, "version", "celery_version", "python_version", "compiled"]
    build = GaugeMetricFamily("walex_build_info", "What runs, in its labels; always 1.", labels=labels)
    versions = [version("walex-celery"), celery.__version__, platform.python_version()]
    build.add_metric([_instance(producer), *versions, str(speedups.compiled).lower()], 1)
    yield build
    yield from _gauge(
        producer,
        "start_time_seconds",
        "When the producer was started, in seconds since 1970.",
        producer.statistics.started.timestamp(),
    )


def _state(producer: Producer, observer: Observer) -> Iterator[Metric]:
    now = producer.activity.now
    state = GaugeMetricFamily("walex_state", "1 for what the producer is doing now.", labels=[_NAME, "state"])
    for doing in Doing:
        state.add_metric([_instance(producer), doing.name.lower()], float(doing is now.doing))
    yield state
    yield from _gauge(
        producer, "streaming", "Whether this producer holds the slot.", producer.streaming.is_set()
    )
    yield from _gauge(
        producer, "broker_up", "Whether the broker takes tasks, or can be reached.", observer.broker_up
    )
    yield from _gauge(
        producer, "postgres_up", "Whether Postgres answers, on a connection of its own.", observer.postgres_up
    )
    running = GaugeMetricFamily(
        "walex_handler_running_seconds",
        "How long the batch handler has been running that runs now.",
        labels=[_NAME, "handler"],
    )
    if now.doing is Doing.HANDLER:
        running.add_metric([_instance(producer), now.detail], now.seconds)
    yield running


def _lag(producer: Producer, observer: Observer) -> Iterator[Metric]:
    known = producer.snapshot()
    if known is not None:
        yield from _gauge(
            producer, "lag_seconds", "Age of the oldest change that is not done.", known.lag.seconds
        )
    slot = observer.slot
    if slot is None:
        return
    yield from _gauge(producer, "lag_bytes", "WAL written and not acknowledged.", slot.lag_bytes)
    yield from _gauge(
        producer, "slot_retained_bytes", "WAL that Postgres keeps for the slot.", slot.retained_bytes
    )
    yield from _gauge(
        producer,
        "slot_safe_bytes",
        "WAL that may be written before the slot is lost; none without max_slot_wal_keep_size.",
        slot.safe_bytes,
    )
    yield from _gauge(producer, "slot_active", "Whether any producer reads the slot.", slot.active)
    yield from _gauge(producer, "slot_lost", "Whether Postgres invalidated the slot.", slot.lost)


def _read(producer: Producer, observer: Observer) -> Iterator[Metric]:
    statistics = producer.statistics
    yield from _counter(
        producer, "connects", "How often streaming began; the first time is one.", statistics.connects
    )
    yield from _counter(producer, "messages", "Messages of the stream that were read.", statistics.messages)
    yield from _counter(
        producer,
        "transactions",
        "Transactions that were dispatched, of those with an event somebody wanted.",
        statistics.transactions,
    )
    labels = [_NAME, "table", "type"]
    events = CounterMetricFamily("walex_events", "Events that were dispatched.", labels=labels)
    filtered = CounterMetricFamily("walex_events_filtered", "Events that filters dropped.", labels=labels)
    for key, tally in statistics.tallies():
        # Messages have no table.
        table = str(Table(key.schema, key.table)) if key.table else ""
        values = [_instance(producer), table, key.type]
        events.add_metric(values, tally.accepted)
        filtered.add_metric(values, tally.filtered)
    yield events
    yield filtered


def _published(producer: Producer, observer: Observer) -> Iterator[Metric]:
    statistics = producer.statistics
    tasks = CounterMetricFamily(
        "walex_tasks_published", "Tasks given to the publisher, by function.", labels=[_NAME, "task"]
    )
    for task, tally in statistics.task_tallies():
        tasks.add_metric([_instance(producer), task], tally.count)
    yield tasks
    publish = HistogramMetricFamily(
        "walex_publish_seconds", "From writing a batch of tasks to its confirmation.", labels=[_NAME]
    )
    _histogram(publish, [_instance(producer)], statistics.publish)
    yield publish
    known = producer.snapshot()
    if known is not None:
        count, size = known.unconfirmed_tasks, known.unconfirmed_bytes
        yield from _gauge(
            producer, "unconfirmed_tasks", "Tasks that the broker has not confirmed yet.", count
        )
        yield from _gauge(producer, "unconfirmed_bytes", "Size of the tasks not confirmed yet.", size)


def _handlers(producer: Producer, observer: Observer) -> Iterator[Metric]:
    labels = [_NAME, "handler"]
    seconds = HistogramMetricFamily(
        "walex_handler_seconds", "How long calls of a batch handler took.", labels=labels
    )
    errors = CounterMetricFamily("walex_handler_errors", "How often a batch handler raised.", labels=labels)
    events = CounterMetricFamily(
        "walex_handler_events", "Events that a batch handler handled.", labels=labels
    )
    # Those that were not called yet too: a counter that begins with its first error shows no increase.
    registered = {
        handler.name: HandlerTally() for handler in producer.walex.handlers if handler.batch is not None
    }
    for handler, tally in (registered | dict(producer.statistics.handlers())).items():
        values = [_instance(producer), handler]
        _histogram(seconds, values, tally.seconds)
        errors.add_metric(values, tally.errors)
        events.add_metric(values, tally.events)
    yield seconds
    yield errors
    yield events


def _stored(producer: Producer, observer: Observer) -> Iterator[Metric]:
    yield from _gauge(
        producer, "dead_letters", "Dead letters that wait to be looked at.", observer.dead_letters
    )
    known = producer.snapshot()
    if known is not None and known.spool is not None:
        waiting, limit = known.spool.waiting_bytes, known.spool.max_bytes
        yield from _gauge(producer, "spool_bytes", "What waits in the spool.", waiting)
        yield from _gauge(producer, "spool_max_bytes", "What the spool may hold.", limit)


_FAMILIES: tuple[Callable[[Producer, Observer], Iterator[Metric]], ...] = (
    _process,
    _state,
    _lag,
    _read,
    _published,
    _handlers,
    _stored,
)
