"""What the checks examine. Each part is read on first use, and cached."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from celery import Celery
from psycopg2.extensions import connection as Connection

from walex_celery.app import WalEx
from walex_celery.broker import Link, Publisher, TaskTarget, open_link
from walex_celery.database.requirements import TableRequirement, requirements_of
from walex_celery.database.schema import Schema, read_schema
from walex_celery.database.statements import Statements
from walex_celery.errors import ConfigurationError
from walex_celery.handlers.registry import Handler, resolve_functions
from walex_celery.operations.doctor.services import Service, service_of
from walex_celery.postgres.connection import connect
from walex_celery.postgres.errors import hide_secrets
from walex_celery.postgres.slot import Slot, SlotCounts, count_slots, find_slot
from walex_celery.settings.model import WalExSettings

#: Timeout for Postgres and the broker; short, for the doctor is called when something hangs.
PATIENCE_SECONDS: Final = 3.0
#: Seconds in which workers' answers are collected.
INSPECT_SECONDS: Final = 1.0


class Context:
    """An application, its database and its broker, as the checks see them.

    Args:
        walex: the application.
        command: the ``celery`` command for it, to print in fixes: ``celery -A shop``.
        clock: this host's time, in seconds since 1970.
    """

    def __init__(self, walex: WalEx, command: str, clock: Callable[[], float] = time.time) -> None:
        self.walex = walex
        self.command = command
        self.clock = clock
        self._connection: Connection | None = None
        self._link: Link | None = None
        self._reported: list[set[str]] = []

    @property
    def app(self) -> Celery:
        """The Celery application."""
        return self.walex.app

    @cached_property
    def settings(self) -> WalExSettings:
        """The settings, with a shorter connect timeout.

        Raises:
            ConfigurationError: they are invalid.
        """
        settings = self.walex.settings
        patience = min(settings.connect_timeout, PATIENCE_SECONDS)
        return settings.model_copy(update={"connect_timeout": patience})

    @cached_property
    def handlers(self) -> tuple[Handler, ...]:
        """The handlers, after importing the event modules."""
        self.walex.import_modules()
        return tuple(self.walex.handlers)

    # Postgres.

    def connect(self) -> None:
        """Connect to Postgres.

        Raises:
            WalExError: it failed; the message has the fix.
        """
        self._connection = connect(self.settings.connection_settings())
        with self._connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = '{PATIENCE_SECONDS:g}s'")

    @property
    def connection(self) -> Connection:
        """The connection to Postgres that :meth:`connect` opened."""
        assert self._connection is not None
        return self._connection

    def rows(self, query: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self.connection.cursor() as cursor:
            cursor.execute(query, parameters)
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found

    def row(self, query: str, parameters: Sequence[Any] | None = None) -> tuple[Any, ...]:
        """The only row of a query."""
        (found,) = self.rows(query, parameters)
        return found

    @cached_property
    def parameters(self) -> Mapping[str, str]:
        """The server parameters that checks use, in their base units: milliseconds, seconds, MB."""
        return dict(
            self.rows(
                "SELECT name, setting FROM pg_settings WHERE name LIKE 'max\\_%' OR name LIKE '%\\_timeout'"
                " OR name LIKE 'wal\\_%' OR name LIKE '%slot%'"
            )
        )

    @cached_property
    def statements(self) -> Statements:
        """Builds SQL for this database."""
        return Statements(self.connection)

    @cached_property
    def service(self) -> Service | None:
        """The managed service that runs the server, if known."""
        return service_of(self.rows)

    @cached_property
    def role(self) -> str:
        """The role connected as."""
        return str(self.row("SELECT current_user::text")[0])

    @cached_property
    def schema(self) -> Schema:
        """Tables and publications."""
        return read_schema(self.connection, self.settings)

    @property
    def known_schema(self) -> Schema | None:
        """Tables and publications; ``None`` if Postgres can't be reached."""
        return None if self._connection is None else self.schema

    @cached_property
    def requirements(self) -> list[TableRequirement]:
        """What the handlers require of each table."""
        return requirements_of(self.settings, self.handlers, self.schema)

    @cached_property
    def slot(self) -> Slot | None:
        """The slot, if it exists."""
        return find_slot(self.connection, self.settings.slot_settings())

    @cached_property
    def slot_counts(self) -> SlotCounts:
        """How many slots the server has, of all databases."""
        return count_slots(self.connection, self.settings.connection_settings())

    # The broker.

    @property
    def functions(self) -> list[TaskTarget]:
        """The tasks that events are sent to, each with its queues. Does not contact the broker."""
        return self._functions[0]

    @property
    def function_errors(self) -> list[ConfigurationError]:
        """Why other functions of handlers can't be sent as tasks."""
        return self._functions[1]

    @cached_property
    def _functions(self) -> tuple[list[TaskTarget], list[ConfigurationError]]:
        publisher = Publisher.open(self.app, timeout_seconds=PATIENCE_SECONDS)
        found: dict[str, TaskTarget] = {}
        errors: dict[str, ConfigurationError] = {}
        for handler in self.handlers:
            try:
                for task in resolve_functions(self.app, handler):
                    function = publisher.prepare(task)
                    found[function.name] = function
            except ConfigurationError as error:
                errors[str(error)] = error
        return list(found.values()), list(errors.values())

    def queues_of(self, function: TaskTarget) -> list[str]:
        """The names of the queues that a function's tasks go to, as far as known before the first event."""
        return function.queues

    def connect_broker(self) -> None:
        """Connect to the broker.

        Raises:
            WalExError: why not.
        """
        self._link = self.new_link()
        self._link.connect()

    def new_link(self) -> Link:
        """A connection to the broker that gives up soon."""
        link = open_link(self.app, PATIENCE_SECONDS)
        link.connection.connect_timeout = PATIENCE_SECONDS
        return link

    @property
    def link(self) -> Link:
        """The connection to the broker that :meth:`connect_broker` opened."""
        assert self._link is not None
        return self._link

    @property
    def asks_workers(self) -> bool:
        """Whether workers of other processes can be asked: Amazon SQS and others have no broadcasts."""
        connection: Any = self.link.connection
        return bool(connection.supports_exchange_type("fanout"))

    @property
    def has_broker_of_its_own(self) -> bool:
        """Whether the broker is in this process' memory."""
        return self.link.driver_name == "memory"

    @cached_property
    def workers(self) -> dict[str, Worker]:
        """The running workers that answered in time, by name; without the producer, which answers too."""
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

    def is_reported(self, error: Exception) -> bool:
        """Whether all that *error* says was said by an earlier one; notes it otherwise."""
        lines = set(str(error).splitlines())
        if any(lines <= earlier for earlier in self._reported):
            return True
        self._reported.append(lines)
        return False

    def scrub(self, text: str) -> str:
        """*text* with secrets redacted."""
        with contextlib.suppress(ConfigurationError):
            text = hide_secrets(text, self.settings.secrets())
        return self._link.scrub(text) if self._link is not None else text

    def close(self) -> None:
        """Close the connections."""
        if self._connection is not None:
            self._connection.close()
        if self._link is not None:
            self._link.close()


class Worker:
    """What a running worker reports.

    Attributes:
        queues: the queues it consumes.
        tasks: the tasks it knows.
    """

    def __init__(self, queues: frozenset[str], tasks: frozenset[str]) -> None:
        self.queues = queues
        self.tasks = tasks


def _replies(answer: Any) -> dict[str, Any]:
    return dict(answer or {})
