"""All that lives as long as one :meth:`Producer.run`: built whole before anything is read, closed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from walex_celery.app import WalEx
from walex_celery.broker import Publisher
from walex_celery.errors import BrokerUnavailable
from walex_celery.handlers.registry import Registry
from walex_celery.pipeline.control import Control
from walex_celery.pipeline.delivery import Delivery
from walex_celery.pipeline.dispatcher import Dispatcher
from walex_celery.pipeline.examination import Examination
from walex_celery.pipeline.handler_runner import HandlerRunner
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.parameters import SlotSettings
from walex_celery.postgres.timeline import Cluster
from walex_celery.settings.model import WalExSettings
from walex_celery.sources.protocol import ChangeSource
from walex_celery.telemetry.activity import Activity
from walex_celery.telemetry.lag import MEASURE_SECONDS, Meter
from walex_celery.telemetry.progress import Progress
from walex_celery.telemetry.statistics import Statistics

if TYPE_CHECKING:
    from walex_celery.telemetry.tracing import Tracing


def open_tracing(settings: WalExSettings, statistics: Statistics) -> Tracing | None:
    """Tracing, where OpenTelemetry is installed (extra ``otel``) and has a tracer provider; else nothing is traced."""
    try:
        from walex_celery.telemetry import tracing
    except ImportError as error:
        if error.name is None or not error.name.startswith("opentelemetry"):
            raise
        return None
    if not tracing.is_configured():
        return None
    return tracing.Tracing(
        settings.name,
        statistics,
        database=settings.database,
        hostname=settings.hostname,
        port=settings.port,
    )


class Run:
    """The pipeline behind the source, and what measures it.

    Args:
        walex: the application.
        settings: those in force at first.
        node: the producer's name in Flower.
        statistics: where all is counted.
        activity: of the producer's thread.
        control: says when to stop.
        make_source: makes the source that settings ask for; gets them, and what gives the middleware in force.
        acknowledged: gives what Postgres may forget, or ``None`` while nothing is streamed.
        newest: gives the commit time of the transaction being worked on, if one is.

    Attributes:
        settings: those in force.
        source: what is read.
        examination: of the catalog, while streaming.
        weaknesses_logged: whether what the broker may lose has been logged.
    """

    def __init__(
        self,
        walex: WalEx,
        settings: WalExSettings,
        node: str,
        statistics: Statistics,
        activity: Activity,
        control: Control,
        *,
        make_source: Callable[[WalExSettings, Callable[[], Any]], ChangeSource],
        acknowledged: Callable[[], Lsn | None],
        newest: Callable[[], datetime | None],
    ) -> None:
        self.settings = settings
        self.weaknesses_logged = False
        self.publisher = Publisher.open(
            walex.app,
            timeout_seconds=settings.publish_timeout,
            exactly_once=settings.exactly_once_enqueue,
            sender=node,
        )
        self.tracing = open_tracing(settings, statistics)
        self.runner = HandlerRunner(walex.app, settings, statistics, activity, control.stopping)
        self.dispatcher = Dispatcher(
            walex.app, self.publisher, settings.name, statistics, activity, self.tracing, self.runner
        )
        self.delivery = Delivery(
            self.publisher,
            lambda: self.settings,
            statistics,
            activity,
            control.stopping,
            position=self.dispatcher.packed_position,
            set_aside=self.dispatcher.set_aside,
        )
        self.examination = Examination(lambda: walex.settings, walex.handlers)
        self.publisher.deliver = self.delivery.deliver
        self.progress = Progress(settings.log_interval)
        self.meter = Meter(
            lambda: walex.settings.slot_settings(),  # noqa: PLW0108 - the settings are replaced
            acknowledged,
            newest,
            statistics,
            min(MEASURE_SECONDS, settings.log_interval),
        )
        self.meter.start()
        self._control = control
        self._make_source = make_source
        self.source = self._new_source()

    def slot_settings(self) -> SlotSettings:
        """Which slot is read, and what looks at the catalog meanwhile."""
        return replace(self.settings.slot_settings(), look=self.examination.look)

    def renew_source(self) -> None:
        """Have the source that the settings in force ask for: with a middleware, or without."""
        if (self.settings.message_middleware is not None) != self._has_middleware:
            self.source.close()
            self.source = self._new_source()

    def _new_source(self) -> ChangeSource:
        self._has_middleware = self.settings.message_middleware is not None
        source = self._make_source(self.settings, lambda: self.settings.message_middleware)
        self._control.wakes(source.wake)
        return source

    def follow(self, handlers: Registry, cluster: Cluster) -> None:
        """Call *handlers* and make their tasks; what comes is of *cluster*, as it is now.

        Raises:
            ConfigurationError: a function can't be found or sent.
            SetupError, PostgresUnavailable: dead letters can't be stored.
        """
        self.dispatcher.prepare(handlers, cluster.system_identifier)
        self.dispatcher.follow(cluster.timelines)
        self.runner.prepare(self.settings, handlers, cluster)

    def check_all_confirmed(self) -> None:
        """Check that a stop finished what was in hand.

        Raises:
            BrokerUnavailable: it did not.
        """
        count = self.publisher.unconfirmed_count
        if not count:
            return
        what = f"stopped with {count} tasks that the broker has not confirmed"
        if self.settings.durable_slot:
            raise BrokerUnavailable(
                f"{what}. Nothing is lost: their transactions are not acknowledged, and come again, with the same "
                "task ids, when a producer is started"
            )
        raise BrokerUnavailable(
            f"{what}. Those that it does not have are lost, because the slot is temporary and ends with the producer\n"
            "  fix: for their transactions to come again, durable_slot=True (WALEX_DURABLE_SLOT=true)"
        )

    def close(self) -> None:
        """End the threads and connections."""
        self.source.close()
        self.meter.close()
        self.runner.close()
        if self.tracing is not None:
            self.tracing.close()
        self.publisher.close()
