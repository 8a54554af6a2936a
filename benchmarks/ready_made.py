"""RabbitMQ's own limit: prebuilt messages, written with the same confirmations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

from celery import Celery

from walex_celery.broker import Publisher
from walex_celery.broker.amqp.writer import AmqpWriter
from walex_celery.broker.driver import Batch
from walex_celery.broker.link import Link
from walex_celery.broker.templates.wire import Item
from walex_celery.pipeline.delivery import FLUSH_TASKS


def write_ready_made(
    app: Celery, task: Any, values: Sequence[tuple[bytes, str]], count: int
) -> tuple[float, float]:
    """Write *count* messages made of *values* (JSON text and argsrepr) in turn.

    The writer, its window and the size of batches are the producer's. Two batches are on their way at any time,
    so that the broker never waits for the loop.

    Returns:
        Seconds from the first write to the last confirmation, and CPU seconds in between.
    """
    writer = AmqpWriter(Link(app, 30.0))
    publisher = Publisher(app, writer)
    try:
        function = publisher.prepare(task)
        template = function.template
        if template is None:
            raise RuntimeError("the task's messages have no template")
        # Not the publisher's, which starts a heartbeat thread; nothing here takes turns with it.
        writer.declare(function.declares)
        made: list[Item] = []
        for number, (value, argsrepr) in enumerate(values):
            item = template(f"00000000-0000-8000-8000-{number:012d}", value, argsrepr)
            assert item is not None
            made.append(item)
        batches = _batches(made, count)
        began, cpu_began = time.perf_counter(), time.process_time()
        _write(writer, batches)
        return time.perf_counter() - began, time.process_time() - cpu_began
    finally:
        publisher.close()


def _batches(made: Sequence[Item], count: int) -> list[Batch]:
    items = cycle(made)
    batches = []
    while count > 0:
        part = list(islice(items, min(count, FLUSH_TASKS)))
        count -= len(part)
        batches.append(Batch(part, sum(len(item[2]) + len(item[3]) for item in part)))
    return batches


def _write(writer: AmqpWriter, batches: Sequence[Batch]) -> None:
    on_their_way: list[Batch] = []
    writer.resume([])
    for batch in batches:
        writer.write(batch)
        on_their_way.append(batch)
        if len(on_their_way) > 1:
            writer.confirm(on_their_way, 1)
            del on_their_way[0]
    writer.confirm(on_their_way, len(on_their_way))
