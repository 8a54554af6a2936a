"""What the broker may lose although it has confirmed it; each driver examines its own kind of broker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from celery import Celery
from kombu import Queue

from walex_celery.broker.drivers import driver_of, open_link
from walex_celery.broker.templates.target import TaskTarget


@dataclass(frozen=True, slots=True)
class Weakness:
    """A way in which a confirmed task can vanish, or run when it should not.

    Attributes:
        id: what it is, for programs: ``redis-no-persistence`` ...
        severity: ``"error"``: the broker will refuse tasks; ``"warning"``: they can be lost or repeated; ``"info"``: it
            could not be seen whether.
        sentence: what is so, and what follows from it.
        fix: a command, a setting or an instruction that fixes it; empty if there is none.
    """

    id: str
    severity: Literal["error", "warning", "info"]
    sentence: str
    fix: str = ""


def examine(app: Celery, targets: Iterable[TaskTarget], *, timeout_seconds: float = 10.0) -> list[Weakness]:
    """Look at the app's broker and at the queues that *targets* go to.

    Args:
        app: whose broker settings count.
        targets: what ``Publisher.prepare`` returned.
        timeout_seconds: for each wait on the broker.

    Raises:
        BrokerUnavailable: it can't be reached; RabbitMQ is not asked anything.
        PublishRefused: it refused the login.
        ConfigurationError: its transport can't be used.
    """
    link = open_link(app, timeout_seconds)
    try:
        return list(driver_of(link).weaknesses(link, [target for target in targets if not target.eager]))
    finally:
        link.close()


def queues_of(targets: Iterable[TaskTarget]) -> list[Any]:
    """Return the queues that targets go to, as far as known, each once.

    Any: kombu's stubs leave out half of a queue's attributes.
    """
    found = {entity.name: entity for t in targets for entity in t.declares if isinstance(entity, Queue)}
    return list(found.values())


def queue_argument(queue: Any, name: str, otherwise: Any) -> Any:
    """Return an ``x-...`` argument of a queue, or *otherwise*, its attribute in kombu."""
    return (queue.queue_arguments or {}).get(name, otherwise)


def expires(queue: Any) -> bool:
    """Whether the broker deletes the queue when it has been unused for a while."""
    return queue_argument(queue, "x-expires", queue.expires) is not None


def expiring_queue(name: str) -> Weakness:
    """Return the weakness of a queue that expires."""
    return Weakness(
        "queue-expires",
        "warning",
        f"Queue {name!r} expires: it is deleted, with its tasks, when unused for a while.",
        f"Declare Queue({name!r}) without expires and x-expires",
    )
