"""What the checks of the catalog examine: an application's settings and handlers, and its database."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Protocol

from psycopg2.extensions import connection as Connection

from walex_celery.database.requirements import TableRequirement, requirements_of
from walex_celery.database.schema import Schema, read_schema
from walex_celery.database.statements import Statements
from walex_celery.handlers.registry import Handler
from walex_celery.settings.model import WalExSettings


class Subject(Protocol):
    """An application and its database, as the checks of the catalog see them."""

    @property
    def settings(self) -> WalExSettings:
        """The settings."""

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """The handlers."""

    @property
    def schema(self) -> Schema:
        """Tables and publications."""

    @property
    def requirements(self) -> list[TableRequirement]:
        """What the handlers require of each table."""

    @property
    def statements(self) -> Statements:
        """Builds SQL for this database."""


class CatalogSubject:
    """A :class:`Subject` that is read from *connection*, each part on first use."""

    def __init__(self, settings: WalExSettings, handlers: Iterable[Handler], connection: Connection) -> None:
        self.settings = settings
        self.handlers = tuple(handlers)
        self.statements = Statements(connection)
        self._connection = connection

    @cached_property
    def schema(self) -> Schema:
        """Tables and publications."""
        return read_schema(self._connection, self.settings)

    @cached_property
    def requirements(self) -> list[TableRequirement]:
        """What the handlers require of each table."""
        return requirements_of(self.settings, self.handlers, self.schema)
