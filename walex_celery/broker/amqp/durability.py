"""What RabbitMQ may lose although it has confirmed it, read from the properties of the tasks' queues.

Sources: rabbitmq.com "Queues", "Queue Length Limit", "Time-To-Live and Expiration". Its policies can't be seen over
AMQP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from walex_celery.broker.durability import Weakness, expires, expiring_queue, queue_argument, queues_of
from walex_celery.broker.link import Link
from walex_celery.broker.templates.target import TaskTarget

_TRANSIENT: Final = 1


def weaknesses(link: Link, targets: Iterable[TaskTarget]) -> Iterator[Weakness]:
    """Look at the properties of the targets' queues; the broker is not asked."""
    targets = list(targets)
    for queue in queues_of(targets):
        yield from _of_queue(queue)
    for target in targets:
        queues = queues_of([target])
        quorum = queues and all(_is_quorum(queue) for queue in queues)
        if target.delivery_mode == _TRANSIENT and not quorum:
            yield Weakness(
                "rabbitmq-transient",
                "warning",
                f"Messages of task {target.name!r} are transient (delivery_mode 1): RabbitMQ loses them when it "
                "is restarted.",
                "task_default_delivery_mode = 2, and no delivery_mode=1 on its queue, exchange, route or task",
            )


def _of_queue(queue: Any) -> Iterator[Weakness]:
    name = queue.name
    if not queue.durable and not _is_quorum(queue):
        yield Weakness(
            "rabbitmq-not-durable",
            "warning",
            f"Queue {name!r} is not durable: it is lost, with its tasks, when RabbitMQ is restarted.",
            f"Delete it, and declare Queue({name!r}, durable=True)",
        )
    if queue.exclusive:
        yield Weakness(
            "rabbitmq-exclusive",
            "warning",
            f"Queue {name!r} is exclusive: it is deleted, with its tasks, when the connection that made it ends, "
            "and no worker can consume it.",
            f"Declare Queue({name!r}, exclusive=False, auto_delete=False)",
        )
    elif queue.auto_delete:
        yield Weakness(
            "rabbitmq-auto-delete",
            "warning",
            f"Queue {name!r} is auto-delete: it is deleted, with its tasks, when its last worker leaves.",
            f"Delete it, and declare Queue({name!r}, auto_delete=False)",
        )
    if expires(queue):
        yield expiring_queue(name)
    if queue_argument(queue, "x-dead-letter-exchange", None) is not None:
        return
    limits = [
        queue_argument(queue, "x-max-length", queue.max_length),
        queue_argument(queue, "x-max-length-bytes", queue.max_length_bytes),
    ]
    overflow = queue_argument(queue, "x-overflow", None) or "drop-head"
    if any(limit is not None for limit in limits) and overflow == "drop-head":
        yield Weakness(
            "rabbitmq-drop-head",
            "warning",
            f"Queue {name!r} drops its oldest tasks silently when it is full (x-max-length, x-overflow drop-head).",
            f'Delete it, and declare Queue({name!r}, queue_arguments={{"x-overflow": "reject-publish", ...}})',
        )
    if queue_argument(queue, "x-message-ttl", queue.message_ttl) is not None:
        yield Weakness(
            "rabbitmq-message-ttl",
            "warning",
            f"Queue {name!r} drops tasks that wait too long (x-message-ttl), and has no dead-letter exchange.",
            f"Delete it, and declare Queue({name!r}) without message_ttl, or with x-dead-letter-exchange",
        )


def _is_quorum(queue: Any) -> bool:
    return bool(queue_argument(queue, "x-queue-type", None) == "quorum")
