"""What Redis and Valkey may lose although they have confirmed it, read from their settings.

Sources: redis.io "Redis persistence" and "Key eviction"; kombu's Redis transport.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from celery import Celery

from walex_celery.broker.durability import Weakness, expires, expiring_queue, queues_of
from walex_celery.broker.link import Link
from walex_celery.broker.redis.errors import fix_for
from walex_celery.broker.templates.target import TaskTarget

#: kombu's default if ``broker_transport_options`` has none.
DEFAULT_VISIBILITY_TIMEOUT_SECONDS: Final = 3600


def weaknesses(link: Link, targets: Iterable[TaskTarget]) -> Iterator[Weakness]:
    """Read the server's settings, and compare the tasks' time limits with the transport's visibility timeout."""
    targets = list(targets)
    yield from _of_server(link, queues_of(targets))
    yield from _of_visibility(link.app, targets)


def _of_server(link: Link, queues: list[Any]) -> Iterator[Weakness]:
    link.connect()
    # Any: what a channel has depends on the transport.
    channel: Any = link.connection.default_channel
    try:
        info, config, refused = _read_redis(channel)
    except link.connection.connection_errors as error:
        # A broker that goes down here must not end a process that only looks.
        raise link.unavailable("broke off while it was asked what it keeps", error) from error
    yield from _of_permissions(link, queues)
    if refused:
        yield Weakness(
            "redis-not-seen",
            "info",
            f"The broker {link.url} does not let {' and '.join(refused)} be read: what it keeps is not fully known.",
            "See appendonly, appendfsync and maxmemory-policy where it is managed, "
            f"or: ACL SETUSER {link.connection.userid or 'default'} +info +config|get",
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


def _of_permissions(link: Link, queues: list[Any]) -> Iterator[Weakness]:
    """Ask for each command that publishing needs whether the user may run it."""
    channel: Any = link.connection.default_channel
    prefix = channel.global_keyprefix
    wanted: list[tuple[str, ...]] = []
    for queue in queues:
        wanted.append(("LPUSH", f"{prefix}{queue.name}", ""))
        if queue.exchange is not None and queue.exchange.name:
            bindings = prefix + channel.keyprefix_queue % (queue.exchange.name,)
            wanted += [("SADD", bindings, ""), ("SMEMBERS", bindings)]
    lacking = dict.fromkeys(f"{command[0]} on {command[1]}" for command in _refused(channel, wanted))
    if lacking:
        yield Weakness(
            "redis-no-permission",
            "error",
            f"The user of {link.url} may not run {', '.join(lacking)} (NOPERM): the broker will refuse tasks.",
            fix_for("NOPERM").strip(),
        )


def _refused(channel: Any, commands: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Return those that the user may not run. None is run: Redis checks that when MULTI queues them."""
    from redis.exceptions import NoPermissionError, RedisError

    pool = channel.pool
    connection = pool.get_connection()
    try:
        for command in [("MULTI",), *commands]:
            connection.send_command(*command)
            try:
                connection.read_response()
            except NoPermissionError:
                if command == ("MULTI",):
                    return  # nothing may be tried then
                yield command
    except RedisError:
        return  # the other checks say so
    finally:
        connection.disconnect()  # which discards them
        pool.release(connection)


def _read_redis(channel: Any) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return INFO, CONFIG, and the names of those that were refused, as managed services do."""
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
    expiring = [queue.name for queue in queues if expires(queue)]
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
        yield expiring_queue(name)


def _of_visibility(app: Celery, targets: Iterable[TaskTarget]) -> Iterator[Weakness]:
    options = app.conf.broker_transport_options or {}
    visibility = options.get("visibility_timeout", DEFAULT_VISIBILITY_TIMEOUT_SECONDS)
    for target in targets:
        task: Any = app.tasks.get(target.name)
        limit = getattr(task, "time_limit", None) or app.conf.task_time_limit
        if limit and limit > visibility:
            yield Weakness(
                "redis-visibility-timeout",
                "warning",
                f"Task {target.name!r} may run for {limit:g} s, and Redis tasks that are not acknowledged for "
                f"{visibility:g} s are delivered again: it, or one that its worker prefetched, runs twice.",
                f'broker_transport_options = {{"visibility_timeout": {int(limit) * 2}}}',
            )
