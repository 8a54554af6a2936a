"""``walex setup``: fits the database to the application. Shows each statement; never removes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, TypeAlias

import msgspec
import psycopg2
from psycopg2 import errorcodes
from psycopg2.extensions import connection as Connection
from pydantic import SecretStr

from walex_celery.database.changes import (
    Change,
    dead_letter_changes,
    dead_letters_are_used,
    identity_changes,
    lists_tables,
    newly_published,
    publication_changes,
)
from walex_celery.database.requirements import TableRequirement, requirements_of
from walex_celery.database.schema import Schema, read_schema, require_tables
from walex_celery.database.statements import Statements
from walex_celery.errors import ConfigurationError, SetupError, WalExError
from walex_celery.filters import Table
from walex_celery.handlers.registry import Handler
from walex_celery.postgres.errors import explain_slot_error, wal_level_error
from walex_celery.postgres.failover import check_failover
from walex_celery.postgres.server import inspect_server
from walex_celery.postgres.slot import check_slot, find_slot
from walex_celery.settings.changes import changed
from walex_celery.settings.model import WalExSettings

#: The environment variable for an administrator's url, which keeps its password out of process lists.
ADMIN_URL_VARIABLE: Final = "WALEX_ADMIN_URL"

Identity: TypeAlias = Literal["full", "default", "ask"]


class Question(msgspec.Struct, frozen=True):
    """Whether to set REPLICA IDENTITY FULL on a table and its partitions.

    Attributes:
        table: which.
        reason: what goes wrong without it.
        changes: the statements that set it.
        advised: whether "yes" is the better answer for most users.
        needed: whether the application's own writes would fail without it.
    """

    table: Table
    reason: str
    changes: list[Change]
    advised: bool
    needed: bool = False

    @property
    def sentence(self) -> str:
        """Why it is needed, and what it costs."""
        return f"{self.table}: {self.reason}. REPLICA IDENTITY FULL writes whole old rows to the WAL."


class Plan(msgspec.Struct, frozen=True):
    """What setup would run: *changes*, in order, and notes on what it leaves as it is."""

    changes: list[Change]
    notes: list[str]


def administrator(settings: WalExSettings, url: str | None) -> WalExSettings:
    """The settings with the connection of *url*, if given: another role on the same database.

    Raises:
        ConfigurationError: *url* is malformed, or names another database.
    """
    if not url:
        return settings
    try:
        other = changed(settings, "replace", "url", SecretStr(url))
    except ConfigurationError as error:
        raise ConfigurationError(f"--url or {ADMIN_URL_VARIABLE}: {error}") from None
    if other.database != settings.database:
        raise ConfigurationError(
            f"--url or {ADMIN_URL_VARIABLE} names database {other.database!r}, but the producer reads "
            f"{settings.database!r}; use the url of the same database"
        )
    return other


def plan(
    connection: Connection,
    settings: WalExSettings,
    handlers: Iterable[Handler],
    *,
    decide: Callable[[Question], bool],
    role: str | None = None,
) -> Plan:
    """The changes to make.

    Args:
        connection: as the role that will make them.
        settings: the application's, with that role's connection.
        handlers: the application's.
        decide: answers whether to set REPLICA IDENTITY FULL, for each table that needs it.
        role: the producer's role, if it is not that of *connection*.

    Raises:
        SetupError: a table does not exist, or the slot belongs to something else.
        WalExError: the catalog can't be read.
    """
    handlers = list(handlers)
    schema = read_schema(connection, settings)
    require_tables(schema, settings)
    requirements = requirements_of(settings, handlers, schema)
    statements = Statements(connection)
    notes = []
    if lists_tables(settings, schema):
        names = ", ".join(settings.publication)
        notes.append(
            f"publication {names} lists its tables: subscriptions '*' are those. Postgres can't turn it into one FOR "
            "ALL TABLES; name a new one in publication=, and setup creates it so"
        )
    publishing = list(publication_changes(settings, requirements, schema, statements))
    identities: list[Change] = []
    refused: list[Question] = []
    for question in (
        *_without_identity(settings, requirements, schema, statements),
        *_questions(requirements, schema, statements),
    ):
        new = [change for change in question.changes if change.sql not in {known.sql for known in identities}]
        if not new:
            continue
        if decide(question):
            identities += new
        elif question.needed:
            refused.append(question)
        else:
            notes.append(f"{question.sentence} Not set; `--replica-identity full` sets it.")
    if refused:
        raise _refusal(refused)
    # Before the publication: once published, Postgres refuses to update a table without an identity.
    changes = identities + publishing
    if dead_letters_are_used(settings, handlers):
        changes += dead_letter_changes(connection, role or _current_role(connection), statements)
    # Last: the publication must exist before the WAL position at which the slot begins.
    changes += _slot_changes(connection, settings, statements)
    return Plan(changes, notes)


def _questions(
    requirements: list[TableRequirement], schema: Schema, statements: Statements
) -> Iterator[Question]:
    for requirement in requirements:
        changes = identity_changes(requirement, schema, statements)
        if not changes:
            continue
        if requirement.by_filters:
            reason = f"{'; '.join(requirement.by_filters)} drop nothing without old values"
        else:
            seen = ", ".join(requirement.by_changes)
            reason = f"{seen} can't see what changed, and sees only the key of a deleted row"
        yield Question(requirement.table, reason, changes, advised=bool(requirement.by_filters))


def _without_identity(
    settings: WalExSettings, requirements: list[TableRequirement], schema: Schema, statements: Statements
) -> Iterator[Question]:
    """Questions about tables that Postgres would not let anyone update once setup publishes them."""
    for state in newly_published(settings, requirements, schema):
        if not state.can_be_updated:
            yield Question(
                state.table,
                "it has no primary key: once it is published, Postgres refuses its UPDATE and DELETE to everyone",
                [
                    Change(
                        statements.identity_full(state),
                        f"{state.table} has no primary key, so updates would be refused",
                    )
                ],
                advised=True,
                needed=True,
            )


def _refusal(refused: list[Question]) -> SetupError:
    tables = ", ".join(str(question.table) for question in refused)
    return SetupError(
        f"{tables} has no primary key: once it is published, Postgres refuses its UPDATE and DELETE to everyone\n"
        "  fix: add a primary key, or run setup with --replica-identity full"
    )


def _current_role(connection: Connection) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user::text")
        ((role,),) = cursor.fetchall()
    return str(role)


def _slot_changes(connection: Connection, settings: WalExSettings, statements: Statements) -> list[Change]:
    if not settings.durable_slot:
        return []
    wanted = settings.slot_settings()
    slot = find_slot(connection, wanted)
    check_failover(inspect_server(connection, wanted.connection), slot, wanted)
    if slot is None:
        return [Change(statements.create_slot(settings), f"durable slot {settings.slot!r} is missing")]
    # A slot in use is fine.
    check_slot(msgspec.structs.replace(slot, active_pid=None), wanted)
    return []


def run(
    connection: Connection,
    settings: WalExSettings,
    changes: Iterable[Change],
    *,
    started: Callable[[Change], object] = lambda change: None,
) -> None:
    """Make *changes* one by one, calling *started* before each.

    After a failure the earlier ones stay in place, and setup can be run again.

    Raises:
        WalExError: a change failed; the message says which role may make it.
    """
    for change in changes:
        if "pg_create_logical_replication_slot" in change.sql:
            check_wal_level(connection)
        started(change)
        try:
            with connection.cursor() as cursor:
                cursor.execute(change.sql)
        except psycopg2.Error as error:
            raise _explain(error, change, settings) from error


def check_wal_level(connection: Connection) -> None:
    """Check that the server's ``wal_level`` allows logical slots.

    Raises:
        WalLevelError: it does not; the message has the fix.
    """
    with connection.cursor() as cursor:
        cursor.execute("SHOW wal_level")
        ((wal_level,),) = cursor.fetchall()
    if wal_level != "logical":
        raise wal_level_error(f"wal_level is {wal_level!r}")


def _explain(error: psycopg2.Error, change: Change, settings: WalExSettings) -> WalExError:
    if error.pgcode != errorcodes.INSUFFICIENT_PRIVILEGE or "slot" in change.sql:
        return explain_slot_error(error, settings.slot_settings())
    text = str(error).strip().partition("\n")[0]
    if "FOR ALL TABLES" in change.sql:
        who = "only a superuser may create it"
    elif change.sql.startswith("CREATE PUBLICATION"):
        database = settings.database.replace('"', '""')
        who = f'it needs GRANT CREATE ON DATABASE "{database}", and must own the tables'
    else:
        who = "only the owner or a superuser may"
    return SetupError(
        f"role {settings.connection_settings().role!r} may not run {change.sql} ({text}): {who}\n"
        f"  fix: run setup as such a role, with its url in {ADMIN_URL_VARIABLE} or --url"
    )
