"""The messages of a chunk's tasks that templates can make; the dispatcher adds the others one by one."""

from __future__ import annotations

from walex_celery._speedups import speedups
from walex_celery.broker.templates.wire import Item
from walex_celery.events.task_id import task_id, task_id_prefix
from walex_celery.pipeline.assembler import RoutedEvent


def make_tasks_plainly(
    routed: list[RoutedEvent], first: int, lsn: int, salt: int
) -> tuple[int, list[Item], int]:
    """Make messages from event *first* on; see :class:`~walex_celery._speedups.contract.MakeTasks`."""
    items: list[Item] = []
    size = 0
    at = first
    prefix = task_id_prefix(lsn)
    for event, route in routed[first:] if first else routed:
        targets = route.targets
        if targets is None:
            break
        if targets:
            for target in targets:
                function = target[0]
                if function.template is None or function.sent_event is not None:
                    return at, items, size
            value, head, argsrepr = event.for_task()
            index = event.index
            count_before, size_before = len(items), size
            for function, digest, _ in targets:
                try:
                    item = function.template(task_id(prefix, index, digest ^ salt), value, argsrepr, head)
                except Exception:  # the dispatcher tries again, and applies on_error
                    item = None
                if item is None:
                    del items[count_before:]
                    return at, items, size_before
                items.append(item)
                size += len(item[2]) + len(item[3])
            for target in targets:
                target[2].count += 1
        route.tally.accepted += 1
        at += 1
    return at, items, size


make_tasks = speedups.make_tasks(make_tasks_plainly)
