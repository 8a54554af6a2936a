"""``walex setup``: makes the database fit the application. Says each statement; never takes anything away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, TypeAlias

import msgspec
import psycopg2
from psycopg2 import errorcodes
from psycopg2.extensions import connection as Connection
from pydantic import SecretStr

from walex_celery.errors import ConfigurationError, SetupError, WalExError
from walex_celery.filters import Table
from walex_celery.handlers.registry import Handler
from walex_celery.operations.setup.changes import (
    Fit,
    dead_letters_are_used,
    fit_dead_letters,
    fit_identity,
    fit_publications,
    lists_tables,
    newly_published,
)
from walex_celery.operations.setup.requirements import Need, needs_of
from walex_celery.operations.setup.schema import Schema, read_schema, require_tables
from walex_celery.operations.setup.statements import Statements
from walex_celery.postgres.connection import explain_error, wal_level_error
from walex_celery.postgres.failover import check_failover
from walex_celery.postgres.slot import check_slot, find_slot, inspect_server
from walex_celery.settings.changes import changed
from walex_celery.settings.model import WalExSettings

#: Where an administrator's connection may be given, so that its password is in no process list.
ADMIN_URL_VARIABLE: Final = "WALEX_ADMIN_URL"

Identity: TypeAlias = Literal["full", "default", "ask"]


class Question(msgspec.Struct, frozen=True):
    """Whether a table, and its partitions, shall have the replica identity FULL.

    Attributes:
        table: which.
        reason: what goes wrong otherwise.
        fits: the statements, if so.
        advised: whether "yes" is the better answer for most.
        needed: whether the application's own writes would fail otherwise.
    """

    table: Table
    reason: str
    fits: list[Fit]
    advised: bool
    needed: bool = False

    @property
    def sentence(self) -> str:
        """What it would change, and what it costs."""
        return f"{self.table}: {self.reason}. REPLICA IDENTITY FULL writes whole old rows to the WAL."


class Plan(msgspec.Struct, frozen=True):
    """What setup would run: *fits* in their order, and notes on what it leaves as it is."""

    fits: list[Fit]
    notes: list[str]


def administrator(settings: WalExSettings, url: str | None) -> WalExSettings:
    """The settings with the connection of *url*, if one is given: another role, the same database.

    Raises:
        ConfigurationError: *url* is none, or names another database.
    """
    if not url:
        return settings
    try:
        other = changed(settings, "replace", "url", SecretStr(url))
    except ConfigurationError as error:
        raise ConfigurationError(f"--url or {ADMIN_URL_VARIABLE}: {error}") from None
    if other.database != settings.database:
        raise ConfigurationError(
            f"--url or {ADMIN_URL_VARIABLE} is of database {other.database!r}, and the producer reads "
            f"{settings.database!r}; give the url of the same database"
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
    """What has to be run.

    Args:
        connection: of whoever will run it.
        settings: the application's, with that connection.
        handlers: the application's.
        decide: answers for each table whose old values are wanted and not there.
        role: the producer's, where it is another than that of *connection*.

    Raises:
        SetupError: a table does not exist, or the slot is somebody else's.
        WalExError: the catalog can't be read.
    """
    handlers = list(handlers)
    schema = read_schema(connection, settings)
    require_tables(schema, settings)
    needs = needs_of(settings, handlers, schema)
    statements = Statements(connection)
    notes = []
    if lists_tables(settings, schema):
        names = ", ".join(settings.publication)
        notes.append(
            f"publication {names} lists its tables: subscriptions '*' are those. Postgres can't make it one FOR ALL "
            "TABLES; name another in publication=, and setup makes it so"
        )
    publishing = list(fit_publications(settings, needs, schema, statements))
    identities: list[Fit] = []
    refused: list[Question] = []
    for question in (
        *_without_identity(settings, needs, schema, statements),
        *_questions(needs, schema, statements),
    ):
        new = [fit for fit in question.fits if fit.sql not in {known.sql for known in identities}]
        if not new:
            continue
        if decide(question):
            identities += new
        elif question.needed:
            refused.append(question)
        else:
            notes.append(f"{question.sentence} Left as it is; `--replica-identity full` sets it.")
    if refused:
        raise _refusal(refused)
    # Before the publication: from then on Postgres refuses updates of what has no identity.
    fits = identities + publishing
    if dead_letters_are_used(settings, handlers):
        fits += fit_dead_letters(connection, role or _current_role(connection), statements)
    # Last: the publication must be there in the past of the WAL that the slot begins with.
    fits += _fit_slot(connection, settings, statements)
    return Plan(fits, notes)


def _questions(needs: list[Need], schema: Schema, statements: Statements) -> Iterator[Question]:
    for need in needs:
        fits = fit_identity(need, schema, statements)
        if not fits:
            continue
        if need.by_filters:
            reason = f"{'; '.join(need.by_filters)} drop nothing without old values"
        else:
            seen = ", ".join(need.by_changes)
            reason = f"{seen} can't see what changed, nor, of a deleted row, more than its key"
        yield Question(need.table, reason, fits, advised=bool(need.by_filters))


def _without_identity(
    settings: WalExSettings, needs: list[Need], schema: Schema, statements: Statements
) -> Iterator[Question]:
    """What setup would publish and Postgres then not let be updated."""
    for state in newly_published(settings, needs, schema):
        if not state.can_be_updated:
            yield Question(
                state.table,
                "it has no primary key: once it is published, Postgres refuses its UPDATE and DELETE to everyone",
                [
                    Fit(
                        statements.identity_full(state),
                        f"{state.table} has no primary key, and could not be updated",
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


def _fit_slot(connection: Connection, settings: WalExSettings, statements: Statements) -> list[Fit]:
    if not settings.durable_slot:
        return []
    slot = find_slot(connection, settings)
    check_failover(inspect_server(connection, settings), slot, settings)
    if slot is None:
        return [Fit(statements.create_slot(settings), f"durable slot {settings.slot!r} is missing")]
    # In use is as it should be.
    check_slot(msgspec.structs.replace(slot, active_pid=None), settings)
    return []


def run(
    connection: Connection,
    settings: WalExSettings,
    fits: Iterable[Fit],
    *,
    started: Callable[[Fit], object] = lambda fit: None,
) -> None:
    """Run *fits* one by one, *started* being told of each before.

    A failure leaves those before it in place: running setup again goes on from there.

    Raises:
        WalExError: the first that failed, with who may run it.
    """
    for fit in fits:
        if "pg_create_logical_replication_slot" in fit.sql:
            check_wal_level(connection)
        started(fit)
        try:
            with connection.cursor() as cursor:
                cursor.execute(fit.sql)
        except psycopg2.Error as error:
            raise _explain(error, fit, settings) from error


def check_wal_level(connection: Connection) -> None:
    """That Postgres logs what a slot needs.

    Raises:
        WalLevelError: with the line that mends it.
    """
    with connection.cursor() as cursor:
        cursor.execute("SHOW wal_level")
        ((wal_level,),) = cursor.fetchall()
    if wal_level != "logical":
        raise wal_level_error(f"wal_level is {wal_level!r}")


def _explain(error: psycopg2.Error, fit: Fit, settings: WalExSettings) -> WalExError:
    if error.pgcode != errorcodes.INSUFFICIENT_PRIVILEGE or "slot" in fit.sql:
        return explain_error(error, settings)
    text = str(error).strip().partition("\n")[0]
    if "FOR ALL TABLES" in fit.sql:
        who = "a superuser may make it"
    elif fit.sql.startswith("CREATE PUBLICATION"):
        database = settings.database.replace('"', '""')
        who = f'it takes GRANT CREATE ON DATABASE "{database}", and to own the tables'
    else:
        who = "its owner or a superuser may do so"
    return SetupError(
        f"role {settings.username or '<role>'!r} may not run {fit.sql} ({text}): {who}\n"
        f"  fix: run setup with that role's url, in {ADMIN_URL_VARIABLE} or --url"
    )
