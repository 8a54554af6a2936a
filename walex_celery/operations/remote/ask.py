"""Asking producers in other processes, through Celery's remote-control mailbox."""

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
    """What a producer answered: *answer*, or an *error* in words."""

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
    """Ask all producers of an instance, or those named; the replies are ordered by node.

    Args:
        app: whose broker they listen to.
        command: ``status``, ``pause``, ``resume``, ``shutdown``, ``reload`` or ``config``.
        name: of the instance; ``None`` for all.
        destination: names of nodes; empty for all.
        timeout: seconds to wait for the next answer.
        limit: so many answers will do; the rest is not waited for.
        **arguments: of the command.

    Raises:
        BrokerUnavailable: the broker can't be reached.
        ConfigurationError: a setting that must not go through the broker.
    """
    if command == "config":
        check_remote_key(arguments["action"], arguments["key"])
    link = open_link(app, max(_CONNECT_SECONDS, timeout))
    try:
        link.connect()
        control: Any = app.control  # its stubs know no matcher by name
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
    except Exception as error:  # every driver has its own tree of errors
        raise BrokerUnavailable(
            f"The broker {link.url} did not carry the question: {type(error).__name__}"
        ) from error
    finally:
        link.close()
    return sorted(
        Reply(node, answer.get("ok"), answer.get("error"))
        for entry in replies or ()
        for node, answer in entry.items()
    )
