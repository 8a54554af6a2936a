"""What the checks look at: read when first asked for, and kept for the others."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from celery import Celery
from kombu import Queue
from psycopg2.extensions import connection as Connection

from walex_celery.app import WalEx
from walex_celery.broker import Publisher
from walex_celery.broker.link import Link
from walex_celery.broker.templates.target import TaskTarget
from walex_celery.errors import ConfigurationError
from walex_celery.handlers.registry import Handler, resolve_functions
from walex_celery.operations.doctor.services import Service, service_of
from walex_celery.operations.setup.requirements import Need, needs_of
from walex_celery.operations.setup.schema import Schema, read_schema
from walex_celery.operations.setup.statements import Statements
from walex_celery.postgres.connection import connect, hide_secrets
from walex_celery.postgres.slot import Slot, find_slot
from walex_celery.settings.model import WalExSettings

#: Seconds that Postgres and the broker have to answer; the doctor is asked when something hangs.
PATIENCE_SECONDS: Final = 3.0
#: Seconds for the workers to answer: all answers of that time are taken.
INSPECT_SECONDS: Final = 1.0


class Context:
    """An application, its database and its broker, as the checks see them.

    Args:
        walex: the application.
        command: how ``celery`` is called for it, for the lines that mend: ``celery -A shop``.
        clock: the time here, in seconds since 1970.
    """

    def __init__(self, walex: WalEx, command: str, clock: Callable[[], float] = time.time) -> None:
        self.walex = walex
        self.command = command
        self.clock = clock
        self._connection: Connection | None = None
        self._link: Link | None = None

    @property
    def app(self) -> Celery:
        """The Celery application."""
        return self.walex.app

    @cached_property
    def settings(self) -> WalExSettings:
        """The settings, with less patience than the producer's.

        Raises:
            ConfigurationError: they are wrong.
        """
        settings = self.walex.settings
        patience = min(settings.connect_timeout, PATIENCE_SECONDS)
        return settings.model_copy(update={"connect_timeout": patience})

    @cached_property
    def handlers(self) -> tuple[Handler, ...]:
        """The handlers, once the event modules are imported."""
        self.walex.import_modules()
        return tuple(self.walex.handlers)

    # Postgres.

    def connect(self) -> None:
        """Connect to Postgres.

        Raises:
            WalExError: why not, with the mend.
        """
        self._connection = connect(self.settings)
        with self._connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = '{PATIENCE_SECONDS:g}s'")

    @property
    def connection(self) -> Connection:
        """The connection to Postgres, which :meth:`connect` has made."""
        assert self._connection is not None
        return self._connection

    def rows(self, query: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self.connection.cursor() as cursor:
            cursor.execute(query, parameters)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

    def row(self, query: str, parameters: Sequence[Any] | None = None) -> tuple[Any, ...]:
        """The one row of a query."""
        (found,) = self.rows(query, parameters)
        return found

    @cached_property
    def parameters(self) -> Mapping[str, str]:
        """Postgres' parameters that checks ask for, in their base units: milliseconds, seconds, MB."""
        return dict(
            self.rows(
                "SELECT name, setting FROM pg_settings WHERE name LIKE 'max\\_%' OR name LIKE '%\\_timeout'"
                " OR name LIKE 'wal\\_%' OR name LIKE '%slot%'"
            )
        )

    @cached_property
    def statements(self) -> Statements:
        """Makes SQL for this database."""
        return Statements(self.connection)

    @cached_property
    def service(self) -> Service | None:
        """The managed service that runs the server, if it is one we know."""
        return service_of(self.rows)

    @cached_property
    def role(self) -> str:
        """The role connected as."""
        return str(self.row("SELECT current_user::text")[0])

    @cached_property
    def schema(self) -> Schema:
        """Tables and publications."""
        return read_schema(self.connection, self.settings)

    @cached_property
    def needs(self) -> list[Need]:
        """What the handlers ask of each table."""
        return needs_of(self.settings, self.handlers, self.schema)

    @cached_property
    def slot(self) -> Slot | None:
        """The slot, if it is there."""
        return find_slot(self.connection, self.settings)

    # The broker.

    @cached_property
    def functions(self) -> list[TaskTarget]:
        """The tasks that events are sent to, each with the queues it goes to. Asks no broker.

        Raises:
            ConfigurationError: one can't be sent.
        """
        publisher = Publisher.open(self.app, timeout_seconds=PATIENCE_SECONDS)
        found: dict[str, TaskTarget] = {}
        for handler in self.handlers:
            for task in resolve_functions(self.app, handler):
                function = publisher.prepare(task)
                found[function.name] = function
        return list(found.values())

    def queues_of(self, function: TaskTarget) -> list[str]:
        """The names of the queues that a function's tasks go to, as far as they are known before the first event."""
        return list(dict.fromkeys(item.name for item in function.declares if isinstance(item, Queue)))

    def connect_broker(self) -> None:
        """Connect to the broker.

        Raises:
            WalExError: why not.
        """
        self._link = self.new_link()
        self._link.connect()

    def new_link(self) -> Link:
        """A connection to the broker that gives up soon."""
        if Link(self.app, PATIENCE_SECONDS).driver_name != "redis":
            link = Link(self.app, PATIENCE_SECONDS)
            link.connection.connect_timeout = PATIENCE_SECONDS
            return link
        return Link(
            self.app,
            PATIENCE_SECONDS,
            socket_timeout=PATIENCE_SECONDS,
            socket_connect_timeout=PATIENCE_SECONDS,
        )

    @property
    def link(self) -> Link:
        """The connection to the broker, which :meth:`connect_broker` has made."""
        assert self._link is not None
        return self._link

    @cached_property
    def workers(self) -> dict[str, Worker]:
        """The running workers that answered in time, by their names. The producer, which answers too, is none."""
        inspect = self.app.control.inspect(timeout=INSPECT_SECONDS, connection=self.link.connection)
        queues = _replies(inspect.active_queues())
        if not queues:
            return {}
        registered = _replies(inspect.registered())
        found = {
            name: Worker(
                frozenset(str(queue["name"]) for queue in queues.get(name) or ()),
                # 'shop.tasks.add [rate_limit=...]'
                frozenset(str(task).partition(" ")[0] for task in registered.get(name) or ()),
            )
            for name in queues
        }
        return {name: worker for name, worker in found.items() if worker.queues}

    def scrub(self, text: str) -> str:
        """*text* without any secret."""
        with contextlib.suppress(ConfigurationError):
            text = hide_secrets(text, self.settings)
        return self._link.scrub(text) if self._link is not None else text

    def close(self) -> None:
        """Close the connections."""
        if self._connection is not None:
            self._connection.close()
        if self._link is not None:
            self._link.close()


class Worker:
    """What a running worker said of itself.

    Attributes:
        queues: that it consumes.
        tasks: that it knows.
    """

    def __init__(self, queues: frozenset[str], tasks: frozenset[str]) -> None:
        self.queues = queues
        self.tasks = tasks


def _replies(answer: Any) -> dict[str, Any]:
    return dict(answer or {})
