"""What the broker may lose although it confirmed it: read from its settings and from the queues' properties.

Sources: redis.io "Redis persistence" and "Key eviction"; rabbitmq.com "Queues", "Queue Length Limit", "Time-To-Live
and Expiration"; kombu's Redis transport. RabbitMQ's policies can't be seen over AMQP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from celery import Celery
from kombu import Queue

from walex_celery.broker.link import Link
from walex_celery.broker.target import TaskTarget

#: kombu's own, where ``broker_transport_options`` say nothing.
DEFAULT_VISIBILITY_TIMEOUT_SECONDS: Final = 3600
_TRANSIENT: Final = 1


@dataclass(frozen=True, slots=True)
class Weakness:
    """A way in which a confirmed task can vanish, or run when it should not.

    Attributes:
        id: what it is, for programs: ``redis-no-persistence`` ...
        severity: ``"warning"``: tasks can be lost or repeated; ``"info"``: it could not be seen whether.
        sentence: what is so, and what follows from it.
        fix: the command or sentence that fixes it; empty if there is none.
    """

    id: str
    severity: Literal["warning", "info"]
    sentence: str
    fix: str = ""


def examine(app: Celery, functions: Iterable[TaskTarget], *, timeout_seconds: float = 10.0) -> list[Weakness]:
    """Look at the app's broker and at the queues that *functions* go to.

    Args:
        app: whose broker settings count.
        functions: what ``Publisher.prepare`` gave.
        timeout_seconds: for each wait on the broker.

    Raises:
        BrokerUnavailable: it can't be reached; RabbitMQ is not asked anything.
        PublishRefused: it refused the login.
        ConfigurationError: its transport can't be used.
    """
    link = Link(app, timeout_seconds, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds)
    functions = [function for function in functions if not function.eager]
    try:
        driver = link.driver_name
        if driver == "redis":
            return [*_of_redis(link, _queues(functions)), *_of_visibility(app, functions)]
        if driver == "py-amqp":
            return list(_of_rabbitmq(functions))
        return [
            Weakness(
                "broker-unknown",
                "info",
                f"walex can't tell what the broker {link.url} keeps when it is restarted.",
            )
        ]
    finally:
        link.close()


def _queues(functions: Iterable[TaskTarget]) -> list[Any]:
    # Any: the stubs leave out half of a queue's attributes.
    found = {entity.name: entity for f in functions for entity in f.declares if isinstance(entity, Queue)}
    return list(found.values())


# Redis and Valkey.


def _of_redis(link: Link, queues: list[Any]) -> Iterator[Weakness]:
    link.connect()
    # Any: what a channel has depends on the transport.
    channel: Any = link.connection.default_channel
    try:
        info, config, refused = _read_redis(channel)
    except link.connection.connection_errors as error:
        # It went away between the two: what is only a look must not end who looks.
        raise link.unavailable("broke off while it was asked what it keeps", error) from error
    if refused:
        yield Weakness(
            "redis-not-seen",
            "info",
            f"The broker {link.url} does not let {' and '.join(refused)} be read: what it keeps is not fully known.",
            "See appendonly, appendfsync and maxmemory-policy where it is managed, "
            "or: ACL SETUSER <user> +info +config|get",
        )
    yield from _of_persistence(link, {**info, **config})
    yield from _of_eviction(link, {**info, **config}, queues)
    if info.get("role") == "slave":
        yield Weakness(
            "redis-replica",
            "warning",
            f"The broker {link.url} is a replica: tasks written to it are refused, or lost when it syncs.",
            "Point broker_url at the primary.",
        )


def _read_redis(channel: Any) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """INFO, CONFIG, and the names of those that were refused, as managed services do."""
    from redis.exceptions import ResponseError

    info: dict[str, str] = {}
    config: dict[str, str] = {}
    refused = []
    with channel.conn_or_acquire() as client:
        try:
            for section in ("persistence", "memory", "replication"):
                info |= {str(key): str(value) for key, value in client.info(section).items()}
        except ResponseError:
            refused.append("INFO")
        try:
            for name in ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy"):
                config |= {str(key): str(value) for key, value in client.config_get(name).items()}
        except ResponseError:
            refused.append("CONFIG")
    return info, config, refused


def _of_persistence(link: Link, known: Mapping[str, str]) -> Iterator[Weakness]:
    append_only = known.get("appendonly") or {"0": "no", "1": "yes"}.get(known.get("aof_enabled", ""))
    always = "CONFIG SET appendonly yes; CONFIG SET appendfsync always; CONFIG REWRITE"
    if append_only == "no":
        snapshots = known.get("save")
        if snapshots:
            sentence = (
                f"loses the tasks since its last snapshot when it ends (appendonly no, save {snapshots})"
            )
        elif snapshots is None:
            sentence = "loses tasks when it ends (appendonly no)"
        else:
            sentence = "loses all tasks when it ends (appendonly no, no snapshots)"
        yield Weakness("redis-no-persistence", "warning", f"The broker {link.url} {sentence}.", always)
    elif known.get("appendfsync") in ("everysec", "no"):
        policy = known["appendfsync"]
        lost = "a second" if policy == "everysec" else "half a minute"
        yield Weakness(
            "redis-appendfsync",
            "warning",
            f"The broker {link.url} may lose {lost} of confirmed tasks when its host loses power "
            f"(appendfsync {policy}).",
            "CONFIG SET appendfsync always; CONFIG REWRITE",
        )


def _of_eviction(link: Link, known: Mapping[str, str], queues: list[Any]) -> Iterator[Weakness]:
    policy = known.get("maxmemory-policy") or known.get("maxmemory_policy") or "noeviction"
    limit = known.get("maxmemory", "0")
    expiring = [queue.name for queue in queues if _argument(queue, "x-expires", queue.expires) is not None]
    evicts = policy.startswith("allkeys-") or (policy.startswith("volatile-") and bool(expiring))
    if limit != "0" and evicts:
        yield Weakness(
            "redis-evicts",
            "warning",
            f"The broker {link.url} deletes whole queues when its memory is full "
            f"(maxmemory {limit}, maxmemory-policy {policy}).",
            "CONFIG SET maxmemory-policy noeviction; CONFIG REWRITE",
        )
    for name in expiring:
        yield _expiring(name)


def _of_visibility(app: Celery, functions: Iterable[TaskTarget]) -> Iterator[Weakness]:
    options = app.conf.broker_transport_options or {}
    visibility = options.get("visibility_timeout", DEFAULT_VISIBILITY_TIMEOUT_SECONDS)
    for function in functions:
        task: Any = app.tasks.get(function.name)
        limit = getattr(task, "time_limit", None) or app.conf.task_time_limit
        if limit and limit > visibility:
            yield Weakness(
                "redis-visibility-timeout",
                "warning",
                f"Task {function.name!r} may run for {limit:g} s, and Redis tasks that are not acknowledged for "
                f"{visibility:g} s are delivered again: it, or what a worker took behind it, runs twice.",
                f'broker_transport_options = {{"visibility_timeout": {int(limit) * 2}}}',
            )


# RabbitMQ.


def _of_rabbitmq(functions: Iterable[TaskTarget]) -> Iterator[Weakness]:
    functions = list(functions)
    for queue in _queues(functions):
        yield from _of_queue(queue)
    for function in functions:
        queues = _queues([function])
        quorum = queues and all(_is_quorum(queue) for queue in queues)
        if function.delivery_mode == _TRANSIENT and not quorum:
            yield Weakness(
                "rabbitmq-transient",
                "warning",
                f"Messages of task {function.name!r} are transient (delivery_mode 1): RabbitMQ loses them when it "
                "is restarted.",
                "task_default_delivery_mode = 2, and no delivery_mode=1 on its queue, exchange, route or task",
            )


def _of_queue(queue: Any) -> Iterator[Weakness]:
    name = queue.name
    if not queue.durable and not _is_quorum(queue):
        yield Weakness(
            "rabbitmq-not-durable",
            "warning",
            f"Queue {name!r} is not durable: it goes, with its tasks, when RabbitMQ is restarted.",
            f"Delete it, and declare Queue({name!r}, durable=True)",
        )
    if queue.exclusive:
        yield Weakness(
            "rabbitmq-exclusive",
            "warning",
            f"Queue {name!r} is exclusive: it goes, with its tasks, when the connection that made it ends, and "
            "no worker can consume it.",
            f"Declare Queue({name!r}, exclusive=False, auto_delete=False)",
        )
    elif queue.auto_delete:
        yield Weakness(
            "rabbitmq-auto-delete",
            "warning",
            f"Queue {name!r} is auto-delete: it goes, with its tasks, when its last worker does.",
            f"Delete it, and declare Queue({name!r}, auto_delete=False)",
        )
    if _argument(queue, "x-expires", queue.expires) is not None:
        yield _expiring(name)
    if _argument(queue, "x-dead-letter-exchange", None) is not None:
        return
    limits = [
        _argument(queue, "x-max-length", queue.max_length),
        _argument(queue, "x-max-length-bytes", queue.max_length_bytes),
    ]
    overflow = _argument(queue, "x-overflow", None) or "drop-head"
    if any(limit is not None for limit in limits) and overflow == "drop-head":
        yield Weakness(
            "rabbitmq-drop-head",
            "warning",
            f"Queue {name!r} drops its oldest tasks in silence when it is full (x-max-length, x-overflow drop-head).",
            f'Delete it, and declare Queue({name!r}, queue_arguments={{"x-overflow": "reject-publish", ...}})',
        )
    if _argument(queue, "x-message-ttl", queue.message_ttl) is not None:
        yield Weakness(
            "rabbitmq-message-ttl",
            "warning",
            f"Queue {name!r} drops tasks that wait too long (x-message-ttl), and has no dead-letter exchange.",
            f"Delete it, and declare Queue({name!r}) without message_ttl, or with x-dead-letter-exchange",
        )


def _is_quorum(queue: Any) -> bool:
    return bool(_argument(queue, "x-queue-type", None) == "quorum")


def _expiring(name: str) -> Weakness:
    return Weakness(
        "queue-expires",
        "warning",
        f"Queue {name!r} expires: it goes, with its tasks, when nobody uses it for a while.",
        f"Declare Queue({name!r}) without expires and x-expires",
    )


def _argument(queue: Any, name: str, otherwise: Any) -> Any:
    return (queue.queue_arguments or {}).get(name, otherwise)
