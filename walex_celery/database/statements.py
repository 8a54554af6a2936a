"""The SQL that fits a database to an application: ``setup`` runs it, ``doctor`` prints it.

Identifiers are quoted by psycopg2's ``sql``: each statement can be run as printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from walex_celery.database.schema import PublicationState, TableState
from walex_celery.filters import Table
from walex_celery.handlers.kinds import PUBLISHED
from walex_celery.settings.model import WalExSettings


class Statements:
    """Builds statements as text, quoted for *connection*."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _text(self, template: str, *parts: sql.Composable) -> str:
        return sql.SQL(template).format(*parts).as_string(self._connection)

    def create_publication(
        self, name: str, tables: Sequence[Table], *, all_tables: bool, via_root: bool
    ) -> str:
        """``CREATE PUBLICATION``; without tables if none are given."""
        members: sql.Composable = sql.SQL("")
        if all_tables:
            members = sql.SQL(" FOR ALL TABLES")
        elif tables:
            members = sql.SQL(" FOR TABLE {}").format(_list(tables))
        options = sql.SQL(" WITH (publish_via_partition_root = true)" if via_root else "")
        return self._text("CREATE PUBLICATION {}{}{};", sql.Identifier(name), members, options)

    def add_tables(self, name: str, tables: Sequence[Table]) -> str:
        """``ALTER PUBLICATION ... ADD TABLE``."""
        return self._text("ALTER PUBLICATION {} ADD TABLE {};", sql.Identifier(name), _list(tables))

    def drop_table(self, name: str, table: Table) -> str:
        """``ALTER PUBLICATION ... DROP TABLE``: only suggested, never run by ``setup``."""
        return self._text("ALTER PUBLICATION {} DROP TABLE {};", sql.Identifier(name), _identifier(table))

    def publish(self, publication: PublicationState, operations: Iterable[str]) -> str:
        """``ALTER PUBLICATION ... SET (publish = ...)``, adding *operations* to those it has."""
        wanted = publication.operations.union(operations)
        listed = ", ".join(operation for operation in PUBLISHED if operation in wanted)
        return self._text(
            "ALTER PUBLICATION {} SET (publish = {});", sql.Identifier(publication.name), sql.Literal(listed)
        )

    def publish_via_root(self, name: str) -> str:
        """``ALTER PUBLICATION ... SET (publish_via_partition_root = true)``."""
        return self._text(
            "ALTER PUBLICATION {} SET (publish_via_partition_root = true);", sql.Identifier(name)
        )

    def identity_full(self, state: TableState) -> str:
        """``ALTER TABLE ... REPLICA IDENTITY FULL``."""
        return self._text("ALTER TABLE {} REPLICA IDENTITY FULL;", _identifier(state.table))

    def create_slot(self, settings: WalExSettings) -> str:
        """``pg_create_logical_replication_slot`` for the settings' durable slot."""
        failover = ", failover => true" if settings.failover else ""
        return self._text(
            "SELECT pg_create_logical_replication_slot({}, 'pgoutput'" + failover + ");",
            sql.Literal(settings.slot),
        )

    def drop_slot(self, settings: WalExSettings) -> str:
        """``pg_drop_replication_slot``: only suggested, never run by ``setup``."""
        return self._text("SELECT pg_drop_replication_slot({});", sql.Literal(settings.slot))

    def role(self, name: str) -> str:
        """A role's name, quoted."""
        return self._text("{}", sql.Identifier(name))

    def alter_role(self, role: str, attributes: str) -> str:
        """``ALTER ROLE ... REPLICATION`` and the like."""
        return self._text("ALTER ROLE {} " + attributes + ";", sql.Identifier(role))

    def grant_role(self, granted: str, role: str) -> str:
        """``GRANT`` of one role to another."""
        return self._text("GRANT {} TO {};", sql.Identifier(granted), sql.Identifier(role))

    def whole_table(self, name: str, table: Table) -> str:
        """Publish a table without its column list, in one transaction so that no change is missed."""
        return self._text(
            "BEGIN; ALTER PUBLICATION {0} DROP TABLE {1}; ALTER PUBLICATION {0} ADD TABLE {1}; COMMIT;",
            sql.Identifier(name),
            _identifier(table),
        )

    def set_logged(self, state: TableState) -> str:
        """``ALTER TABLE ... SET LOGGED``."""
        return self._text("ALTER TABLE {} SET LOGGED;", _identifier(state.table))


def _identifier(table: Table) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


def _list(tables: Sequence[Table]) -> sql.Composed:
    return sql.SQL(", ").join(map(_identifier, tables))
