"""What a producer is doing and has done, in one frozen report: for ``walex status``, metrics and Flower."""

from __future__ import annotations

import os
import socket

from walex_celery.handlers.registry import Registry
from walex_celery.pipeline.control import Control
from walex_celery.pipeline.run import Run
from walex_celery.pipeline.session import Session
from walex_celery.postgres.lsn import Lsn
from walex_celery.telemetry import report
from walex_celery.telemetry.activity import Activity, Doing
from walex_celery.telemetry.report import ProducerStatus
from walex_celery.telemetry.statistics import Statistics


def state_of(control: Control, own: Activity, source: Activity | None) -> tuple[str, str, float]:
    """What a producer is doing, of what, and for how many seconds.

    Args:
        control: what it was asked.
        own: what its thread is doing.
        source: what a thread of its source is doing: the one that is in trouble counts.
    """
    moment = own.now
    if control.stopping.is_set() and moment.doing is not Doing.ENDED:
        return "stopping", "", moment.seconds
    if moment.doing in (Doing.STREAMING, Doing.CONNECTING) and source is not None:
        reading = source.now
        if reading.doing is not Doing.STREAMING:
            moment = reading
    if moment.doing is Doing.STREAMING and control.pausing.is_set():
        return "pausing", "", moment.seconds
    return moment.doing.value, moment.detail, moment.seconds


def take_snapshot(
    run: Run,
    session: Session | None,
    handlers: Registry,
    statistics: Statistics,
    *,
    node: str,
    state: tuple[str, str, float],
) -> ProducerStatus:
    """The report, without secrets; callable from any thread."""
    settings, meter, delivery, publisher = run.settings, run.meter, run.delivery, run.publisher
    read_lsn = 0 if session is None else session.assembler.end_lsn
    doing, detail, seconds = state
    return ProducerStatus(
        name=settings.name,
        node=node,
        hostname=socket.gethostname(),
        pid=os.getpid(),
        version=report.own_version(),
        state=doing,
        state_detail=detail,
        state_seconds=seconds,
        started=statistics.started,
        slot=settings.slot,
        durable_slot=settings.durable_slot,
        server=settings.address(),
        publication=tuple(settings.publication),
        subscriptions=tuple(map(str, settings.subscriptions)),
        read_lsn=str(Lsn(max(read_lsn, delivery.confirmed_lsn))),
        confirmed_lsn=str(delivery.confirmed_lsn),
        acknowledged_lsn=str((None if session is None else session.acknowledged_lsn) or Lsn(0)),
        lag=meter.lag,
        events_per_second=meter.rates.events,
        tasks_per_second=meter.rates.tasks,
        transactions_per_second=meter.rates.transactions,
        messages=statistics.messages,
        transactions=statistics.transactions,
        events=statistics.events,
        tasks=statistics.tasks,
        unconfirmed_tasks=publisher.unconfirmed_count,
        unconfirmed_bytes=publisher.unconfirmed_bytes,
        batches_in_flight=delivery.batches_in_flight,
        publish=report.durations(statistics.publish),
        handlers=report.handlers(
            statistics, [handler.name for handler in handlers if handler.batch is not None]
        ),
        tables=report.tables(statistics),
        spool=run.source.stored(),
        dead_letters=sum(count for _, count in statistics.dead_letters()),
        reconnects=max(0, statistics.connects - 1),
        broker=publisher.describe(),
    )
