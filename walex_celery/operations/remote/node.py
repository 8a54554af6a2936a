"""A producer as a node of Celery's remote control.

It listens to the same mailbox as workers (kombu's pidbox). Of the workers' commands it answers those that monitors
use; it ignores the others unless it is named.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from celery import Celery
from celery.utils.saferepr import saferepr
from celery.utils.serialization import jsonify
from kombu.pidbox import Node

from walex_celery._invocation import celery_command
from walex_celery.app import WalEx
from walex_celery.errors import ConfigurationError, WalExError
from walex_celery.operations.remote.checks import check_change
from walex_celery.pipeline.examination import examine_once
from walex_celery.pipeline.producer import Producer
from walex_celery.postgres.connection import connect
from walex_celery.postgres.errors import hide_secrets
from walex_celery.settings.changes import LIST_KEYS, REPLACE_KEYS, changed
from walex_celery.settings.model import WalExSettings
from walex_celery.settings.url import without_password
from walex_celery.telemetry.report import ProducerStatus

logger = logging.getLogger("walex_celery.operations.remote")

#: The prefix of producers' own commands.
OWN_PREFIX: Final = "walex_"
#: Settings that may be changed through the broker. Secrets, code to run and destinations of data may not: they are
#: read from the producer's own environment (``control reload``).
REMOTE_LIST_KEYS: Final = LIST_KEYS - {"modules"}  # to import a module is to run code
REMOTE_KEYS: Final = REMOTE_LIST_KEYS | {"database", "durable_slot", "failover", "on_error", "slot_name"}
SECRET_KEYS: Final = REPLACE_KEYS - REMOTE_KEYS

#: Timeout for Postgres while the caller waits for an answer.
EXAMINE_SECONDS: Final = 2.0

#: "celery control shutdown" is meant for workers: a producer obeys only if it is named.
NAMED_ONLY: Final = frozenset({"shutdown"})


def check_remote_key(action: str, key: str) -> None:
    """Check that *key* may be changed through the broker; called by the sender and by the receiver.

    Raises:
        ConfigurationError: it may not, or not by *action* (``add``, ``remove``, ``replace``).
    """
    if key in SECRET_KEYS:
        raise ConfigurationError(
            f"{key!r} is never sent through the broker: it is a secret, code to run, or a destination of data\n"
            "  fix: change it where the producer reads it (such as its .env file), then: "
            f"{celery_command()} walex control reload"
        )
    allowed = REMOTE_KEYS if action == "replace" else REMOTE_LIST_KEYS
    if key not in allowed:
        raise ConfigurationError(
            f"config {action} can't change {key!r} while the producer runs; it takes {', '.join(sorted(allowed))}"
        )


class RemoteNode(Node):
    """A node of the mailbox that is not a worker: it ignores what is not meant for it.

    Args:
        hostname: its name.
        remote: the commands it answers.
        channel: where it answers.
        mailbox: the application's, bound to the channel's connection.
    """

    def __init__(self, hostname: str, remote: Remote, channel: Any, mailbox: Any) -> None:
        self._remote = remote
        self._answers = remote.handlers()
        super().__init__(hostname, channel=channel, mailbox=mailbox)

    def handle_message(self, body: dict[str, Any], message: Any = None) -> Any:
        """Answer if the message is for this node."""
        named = bool(body.get("destination"))
        method = str(body.get("method"))
        if not named and (method not in self._answers or method in NAMED_ONLY):
            return None
        if method.startswith(OWN_PREFIX):
            instance = (body.get("arguments") or {}).get("name")
            if instance is not None and instance != self._remote.name:
                return None
        return super().handle_message(body, message)

    def handle(self, method: str, arguments: dict[str, Any] | None = None) -> Any:
        """The answer of *method*; an error is returned to the caller, not logged."""
        answer = self._answers.get(method)
        if answer is None:
            return {"error": f"{self.hostname} is a walex producer, not a worker: it has no {method!r}"}
        arguments = {key: value for key, value in (arguments or {}).items() if key != "name"}
        try:
            return answer(**arguments)
        except WalExError as error:
            return {"error": self._remote.scrub(str(error))}
        except TypeError as error:
            return {"error": f"{method}: {error}"}


class Remote:
    """The remote-control commands of a running producer.

    Args:
        app: the application.
        walex: the instance whose settings may be changed.
        producer: the running producer.
        name: of the instance.
    """

    def __init__(self, app: Celery, walex: WalEx, producer: Producer, name: str) -> None:
        self._app = app
        self._walex = walex
        self._producer = producer
        self.name = name

    def handlers(self) -> Mapping[str, Callable[..., Any]]:
        """The commands, by name."""
        nothing = {
            method: _nothing
            for method in ("active_queues", "registered", "scheduled", "active", "reserved", "revoked")
        }
        return {
            "ping": lambda: {"ok": "pong"},
            "stats": self.stats,
            "conf": self.conf,
            "shutdown": self.shutdown,
            **nothing,
            f"{OWN_PREFIX}status": self.status,
            f"{OWN_PREFIX}pause": self.pause,
            f"{OWN_PREFIX}resume": self.resume,
            f"{OWN_PREFIX}shutdown": self.shutdown,
            f"{OWN_PREFIX}reload": self.reload,
            f"{OWN_PREFIX}config": self.config,
        }

    def scrub(self, text: str) -> str:
        """*text* with secrets redacted."""
        try:
            return hide_secrets(text, self._walex.settings.secrets())
        except ConfigurationError:
            return text

    # The producer's own commands.

    def status(self) -> dict[str, Any]:
        """See :class:`~walex_celery.telemetry.report.ProducerStatus`."""
        found = self._producer.snapshot()
        return {"ok": None if found is None else msgspec.to_builtins(found)}

    def pause(self) -> dict[str, Any]:
        """See :meth:`Producer.pause`."""
        self._producer.pause()
        logger.info("asked by remote control to pause")
        return {
            "ok": "pauses at the next transaction boundary; the slot stays in use, and Postgres keeps WAL meanwhile"
        }

    def resume(self) -> dict[str, Any]:
        """See :meth:`Producer.resume`."""
        self._producer.resume()
        logger.info("asked by remote control to resume")
        return {"ok": "resumes"}

    def shutdown(self) -> dict[str, Any]:
        """See :meth:`Producer.stop`."""
        logger.info("asked by remote control to shut down")
        self._producer.stop()
        return {"ok": "finishes the current batch, acknowledges it and exits"}

    def reload(self) -> dict[str, Any]:
        """See :meth:`WalEx.reload`; answers with the names of the settings, not with their values."""
        found = self._walex.reload()
        summary = f"changed: {', '.join(found.changed)}" if found.changed else "nothing has changed"
        if found.needs_restart:
            summary += f"; changed, but needs a restart: {', '.join(found.needs_restart)}"
        logger.info("settings reloaded by remote control: %s", summary)
        return {"ok": summary}

    def config(self, action: str, key: str, value: Any) -> dict[str, Any]:
        """Add to, remove from or replace a setting; refused if the producer could not go on with it."""
        if action not in ("add", "remove", "replace"):
            raise ConfigurationError(f"config takes add, remove or replace, not {action!r}")
        check_remote_key(action, key)
        before = self._walex.settings
        note = check_change(before, changed(before, action, key, value), key)
        getattr(self._walex, f"{action}_config")(key, value)
        now = getattr(self._walex.settings, key)
        text = (", ".join(map(str, now)) if isinstance(now, tuple) else str(now)) or "nothing"
        logger.info("asked by remote control to change %s: now %s%s", key, text, note)
        lines = [f"{key} is now {text}, from the next transaction boundary on{note}"]
        if action == "add" and key == "subscriptions":
            lines += self._examine()
        return {"ok": "\n".join(map(self.scrub, lines))}

    def _examine(self) -> list[str]:
        """What the producer will log about the settings in force."""
        settings = self._walex.settings
        patience = min(settings.connect_timeout, EXAMINE_SECONDS)
        wanted = settings.model_copy(update={"connect_timeout": patience})
        return examine_once(settings, self._walex.handlers, lambda: connect(wanted.connection_settings()))

    # Workers' commands that monitors use.

    def stats(self) -> dict[str, Any]:
        """In the format of a worker's stats, for Flower; what it does not know appears under "Other"."""
        found = self._producer.snapshot()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        answer: dict[str, Any] = {
            "pool": {"implementation": "walex producer", "max-concurrency": 1},
            "prefetch_count": 0,
            "broker": {"address": "" if found is None else found.broker},
            "rusage": {"utime": usage.ru_utime, "stime": usage.ru_stime, "maxrss": usage.ru_maxrss},
            "total": {},
        }
        if found is not None:
            answer |= {"pid": found.pid, **_for_flower(found)}
        return answer

    def conf(self, with_defaults: bool = False, **_: Any) -> dict[str, Any]:
        """The application's configuration, as a worker reports it, and the current settings; without secrets."""
        table = self._app.conf.table(with_defaults=with_defaults)
        shown = jsonify(
            {key: value for key, value in table.items() if isinstance(key, str) and not key.startswith("__")},
            unknown_type_filter=saferepr,
        )
        if isinstance(shown.get("walex_url"), str):
            shown["walex_url"] = without_password(shown["walex_url"])
        try:
            shown |= _shown_settings(self._walex.settings)
        except ConfigurationError:
            logger.debug("the settings are invalid, so they are not shown", exc_info=True)
        return {key: self._scrubbed(value) for key, value in shown.items()}

    def _scrubbed(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._scrubbed(held) for key, held in value.items()}
        if isinstance(value, list):
            return [self._scrubbed(held) for held in value]
        return self.scrub(value) if isinstance(value, str) else value


def _nothing(**_: Any) -> list[Any]:
    return []


def _shown_settings(settings: WalExSettings) -> dict[str, str]:
    shown = {
        name: getattr(settings, name)
        for name in WalExSettings.model_fields
        if name not in ("url", "password")
    }
    return {
        f"walex_{name}": ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in shown.items()
        if value not in (None, (), {})
    }


def _for_flower(found: ProducerStatus) -> dict[str, Any]:
    counts = {f"{entry.table or 'message'} {entry.type}": entry.accepted for entry in found.tables}
    return {
        "total": counts,
        "walex_state": found.state,
        "walex_slot": found.slot,
        "walex_server": found.server,
        "walex_lag_bytes": found.lag.bytes,
        "walex_lag_seconds": round(found.lag.seconds, 1),
        "walex_acknowledged_lsn": found.acknowledged_lsn,
        "walex_events": found.events,
        "walex_tasks": found.tasks,
        "walex_transactions": found.transactions,
        "walex_handlers": {
            handler.name: f"{handler.calls} calls, {handler.events} events, {handler.errors} errors"
            for handler in found.handlers
        },
        "walex_dead_letters": found.dead_letters,
        "walex_reconnects": found.reconnects,
    }
