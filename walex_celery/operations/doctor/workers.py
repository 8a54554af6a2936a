"""Checks of the running workers, through Celery's remote control."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from walex_celery.database.finding import Finding, do, shell
from walex_celery.database.registry import LeftOut, check
from walex_celery.operations.doctor.context import INSPECT_SECONDS, Context


@check("a worker is running, or none is needed")
def workers_running(context: Context) -> Iterator[Finding]:
    """No worker at all: tasks wait in the broker."""
    if context.app.conf.task_always_eager:
        raise LeftOut  # eager: they never get there
    if context.has_broker_of_its_own:
        yield Finding(
            "workers_running",
            "warning",
            f"the broker {context.link.url} is in the memory of each process: no worker gets the producer's tasks",
            do("Set broker_url to a broker that workers share"),
        )
        return
    if not context.asks_workers:
        yield Finding(
            "workers_running",
            "info",
            f"workers can't be asked through {context.link.url}: whether one runs, which queues it consumes and which "
            "tasks it knows was not checked",
        )
        return
    if context.functions and not context.workers:
        queues = sorted({queue for function in context.functions for queue in context.queues_of(function)})
        yield Finding(
            "workers_running",
            "error",
            f"no worker answered within {INSPECT_SECONDS:g} s: tasks wait in the broker until one runs",
            shell(f"{context.command} worker{_option(queues, context)}"),
        )


@check("every queue has a worker")
def queues_consumed(context: Context) -> Iterator[Finding]:
    """Queues that tasks go to, but no running worker consumes."""
    if context.has_broker_of_its_own or not context.asks_workers or not context.workers:
        raise LeftOut
    consumed = {queue for worker in context.workers.values() for queue in worker.queues}
    lacking: dict[str, list[str]] = {}
    for function in context.functions:
        for queue in context.queues_of(function):
            if queue not in consumed:
                lacking.setdefault(queue, []).append(function.name)
    for queue, names in lacking.items():
        yield Finding(
            "queues_consumed",
            "error",
            f"no worker consumes queue {queue!r}, which {', '.join(names)} goes to",
            shell(f"{context.command} worker{_option([queue], context)}"),
        )


@check("the workers know their tasks")
def tasks_registered(context: Context) -> Iterator[Finding]:
    """A worker discards a task that it does not know."""
    if context.has_broker_of_its_own or not context.asks_workers or not context.workers:
        raise LeftOut
    for function in context.functions:
        queues = set(context.queues_of(function))
        for name, worker in sorted(context.workers.items()):
            if worker.queues & queues and function.name not in worker.tasks:
                yield Finding(
                    "tasks_registered",
                    "error",
                    f"worker {name} consumes {', '.join(sorted(worker.queues & queues))} and does not know task "
                    f"{function.name}: it discards it",
                    do(
                        f"Restart {name} with the producer's code or, if the task belongs to another code base, route "
                        "it to a queue of that code base's workers (task_routes)"
                    ),
                )


def _option(queues: list[str], context: Context) -> str:
    if queues in ([], [str(context.app.conf.task_default_queue)]):
        return ""
    # With a name of its own: if two workers share a name, only one is seen.
    return f" -Q {shlex.quote(','.join(queues))} -n {shlex.quote(queues[0])}@%h"
