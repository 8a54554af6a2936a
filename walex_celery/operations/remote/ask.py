"""Sends commands to producers in other processes, through Celery's remote-control mailbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from celery import Celery

from walex_celery.broker import open_link
from walex_celery.errors import BrokerUnavailable, WalExError
from walex_celery.operations.remote.node import OWN_PREFIX, check_remote_key
from walex_celery.telemetry.report import NODE_PREFIX

#: Seconds to wait for answers; as ``celery inspect`` does.
ANSWER_SECONDS: Final = 1.0

_CONNECT_SECONDS: Final = 3.0


class Reply(NamedTuple):
    """A producer's *answer*, or its *error* as text."""

    node: str
    answer: Any
    error: str | None


def ask(
    app: Celery,
    command: str,
    *,
    name: str | None = None,
    destination: Sequence[str] = (),
    timeout: float = ANSWER_SECONDS,
    limit: int | None = None,
    **arguments: Any,
) -> list[Reply]:
    """Send a command to all producers of an instance, or to the named ones; returns replies ordered by node.

    Args:
        app: the application whose broker they listen to.
        command: ``status``, ``pause``, ``resume``, ``shutdown``, ``reload`` or ``config``.
        name: of the instance; ``None`` for all.
        destination: names of nodes; empty for all.
        timeout: seconds to wait for the next answer.
        limit: return after this many answers.
        **arguments: of the command.

    Raises:
        BrokerUnavailable: the broker can't be reached.
        ConfigurationError: the setting must not go through the broker.
    """
    if command == "config":
        check_remote_key(arguments["action"], arguments["key"])
    link = open_link(app, max(_CONNECT_SECONDS, timeout))
    try:
        link.connect()
        control: Any = app.control  # the stubs lack string matchers
        replies = control.broadcast(
            f"{OWN_PREFIX}{command}",
            arguments={**arguments, "name": name},
            destination=list(destination) or None,
            connection=link.connection,
            reply=True,
            timeout=timeout,
            limit=limit,
            # Workers would log an unknown command as an error.
            pattern=f"{NODE_PREFIX}*",
            matcher="glob",
        )
    except WalExError as error:
        raise BrokerUnavailable(str(error).partition(" What was not confirmed")[0]) from error
    except Exception as error:  # every driver has its own error classes
        raise BrokerUnavailable(
            f"The broker {link.url} did not transport the command: {type(error).__name__}"
        ) from error
    finally:
        link.close()
    return sorted(
        Reply(node, answer.get("ok"), answer.get("error"))
        for entry in replies or ()
        for node, answer in entry.items()
    )
