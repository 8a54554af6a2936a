"""A producer's metrics for Prometheus, collected at each scrape; there is no work in between.

Names and units follow https://prometheus.io/docs/practices/naming/. Every series has the label ``name``, the
instance's name: several may run in one process, or be scraped by one Prometheus.
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
#: The label of each state. Dashboards name them, so they stay when a member of the enumeration is renamed.
_STATES = {doing: doing.name.lower() for doing in Doing} | {Doing.BROKER_DOWN: "broker_away"}


class Exposition:
    """Producers' metrics as text.

    Args:
        watched: the producers, each with its observer.
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
    """Collects the statistics and the state of the *watched* producers."""

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
            # Each family appears once, with the samples of all producers.
            known = merged.setdefault(metric.name, metric)
            if known is not metric:
                known.samples.extend(metric.samples)
        yield from merged.values()


def _instance(producer: Producer) -> str:
    return producer.walex.settings.name


def _gauge(producer: Producer, name: str, help: str, value: float | bool | None) -> Iterator[Metric]:
    """One value; no sample if it is unknown."""
    if value is not None:
        metric = GaugeMetricFamily(f"walex_{name}", help, labels=[_NAME])
        metric.add_metric([_instance(producer)], float(value))
        yield metric


def _counter(producer: Producer, name: str, help: str, value: float) -> Iterator[Metric]:
    metric = CounterMetricFamily(f"walex_{name}", help, labels=[_NAME])
    metric.add_metric([_instance(producer)], value)
    yield metric


def _histogram(metric: HistogramMetricFamily, labels: list[str], durations: Durations) -> None:
    durations = durations.copy()
    total = 0
    buckets = []
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), durations.buckets, strict=True):
        total += count
        buckets.append((bound, total))
    metric.add_metric(labels, buckets, durations.sum)


def _process(producer: Producer, observer: Observer) -> Iterator[Metric]:
    labels = [_NAME, "version", "celery_version", "python_version", "compiled"]
    build = GaugeMetricFamily("walex_build_info", "The running versions, as labels; always 1.", labels=labels)
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
    state = GaugeMetricFamily(
        "walex_state", "1 for the producer's current activity.", labels=[_NAME, "state"]
    )
    for doing in Doing:
        state.add_metric([_instance(producer), _STATES[doing]], float(doing is now.doing))
    yield state
    yield from _gauge(
        producer, "streaming", "Whether this producer holds the slot.", producer.streaming.is_set()
    )
    yield from _gauge(
        producer, "broker_up", "Whether the broker accepts tasks, or can be reached.", observer.broker_up
    )
    yield from _gauge(
        producer, "postgres_up", "Whether Postgres answers on a separate connection.", observer.postgres_up
    )
    running = GaugeMetricFamily(
        "walex_handler_running_seconds",
        "How long the current batch handler call has been running.",
        labels=[_NAME, "handler"],
    )
    if now.doing is Doing.HANDLER:
        running.add_metric([_instance(producer), now.detail], now.seconds)
    yield running


def _lag(producer: Producer, observer: Observer) -> Iterator[Metric]:
    known = producer.snapshot()
    if known is not None:
        yield from _gauge(
            producer, "lag_seconds", "Age of the oldest change that is not acknowledged.", known.lag.seconds
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
        "WAL that may be written before the slot is lost; absent without max_slot_wal_keep_size.",
        None if slot.safe_wal_bytes is None else max(0, slot.safe_wal_bytes),
    )
    yield from _gauge(producer, "slot_active", "Whether any producer reads the slot.", slot.is_active)
    yield from _gauge(producer, "slot_lost", "Whether Postgres invalidated the slot.", slot.is_lost)


def _read(producer: Producer, observer: Observer) -> Iterator[Metric]:
    statistics = producer.statistics
    yield from _counter(
        producer, "connects", "How often streaming began, including the first time.", statistics.connects
    )
    yield from _counter(producer, "messages", "Replication messages read.", statistics.messages)
    yield from _counter(
        producer,
        "transactions",
        "Transactions dispatched: those with at least one routed event.",
        statistics.transactions,
    )
    labels = [_NAME, "table", "type"]
    events = CounterMetricFamily("walex_events", "Events dispatched.", labels=labels)
    filtered = CounterMetricFamily("walex_events_filtered", "Events dropped by filters.", labels=labels)
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
        "walex_tasks_published", "Tasks handed to the publisher, by function.", labels=[_NAME, "task"]
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
        yield from _gauge(
            producer, "unconfirmed_bytes", "Size of the tasks that the broker has not confirmed yet.", size
        )


def _handlers(producer: Producer, observer: Observer) -> Iterator[Metric]:
    labels = [_NAME, "handler"]
    seconds = HistogramMetricFamily(
        "walex_handler_seconds", "Duration of a batch handler's calls.", labels=labels
    )
    errors = CounterMetricFamily("walex_handler_errors", "How often a batch handler raised.", labels=labels)
    events = CounterMetricFamily(
        "walex_handler_events", "Events that a batch handler handled.", labels=labels
    )
    # Including those not called yet: a counter that appears with its first error shows no increase.
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
        producer, "dead_letters", "Dead letters waiting to be retried or discarded.", observer.dead_letters
    )
    known = producer.snapshot()
    if known is not None and known.spool is not None:
        waiting, limit = known.spool.waiting_bytes, known.spool.max_bytes
        yield from _gauge(producer, "spool_bytes", "Bytes waiting in the spool.", waiting)
        yield from _gauge(producer, "spool_max_bytes", "Capacity of the spool.", limit)


_FAMILIES: tuple[Callable[[Producer, Observer], Iterator[Metric]], ...] = (
    _process,
    _state,
    _lag,
    _read,
    _published,
    _handlers,
    _stored,
)
