"""The changes that fit a database to the subscriptions: publications, replica identity, the dead letters' table.

``setup`` runs them and ``doctor`` prints them, so the two never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from psycopg2.extensions import connection as Connection

from walex_celery.database.requirements import TableRequirement
from walex_celery.database.schema import Schema, TableState, missing_publications
from walex_celery.database.statements import Statements
from walex_celery.dead_letters import TABLE, schema_sql
from walex_celery.filters import Table
from walex_celery.handlers.kinds import PUBLISHED
from walex_celery.handlers.policies import may_dead_letter
from walex_celery.handlers.registry import Handler
from walex_celery.settings.model import WalExSettings


class Change(msgspec.Struct, frozen=True):
    """One SQL statement, and a sentence that says why."""

    sql: str
    why: str


def unpublished(requirements: list[TableRequirement], schema: Schema) -> list[TableState]:
    """Tables that subscriptions or handlers name, but no configured publication includes."""
    return [
        requirement.state
        for requirement in requirements
        if requirement.named and not schema.published_by(requirement.state)
    ]


def under_partitions_name(requirements: list[TableRequirement], schema: Schema) -> dict[str, list[Table]]:
    """By publication: the partitioned tables whose rows it sends under the names of their partitions."""
    found: dict[str, list[Table]] = {}
    for requirement in requirements:
        if requirement.state.partitioned:
            for publication in schema.published_by(requirement.state):
                if not publication.via_root:
                    found.setdefault(publication.name, []).append(requirement.table)
    return found


def unpublished_operations(requirements: list[TableRequirement], schema: Schema) -> dict[str, set[str]]:
    """Event types that handlers want but no publication of the table sends, by the table's first publication."""
    found: dict[str, set[str]] = {}
    for requirement in requirements:
        publications = schema.published_by(requirement.state)
        if not publications:
            continue
        sent = frozenset().union(*(publication.operations for publication in publications))
        if lacking := requirement.types - sent:
            found.setdefault(publications[0].name, set()).update(lacking)
    return found


def not_full(requirement: TableRequirement, schema: Schema) -> list[TableState]:
    """Those of the table and its partitions that lack REPLICA IDENTITY FULL.

    Postgres uses the identity of the table that stores the row; walex-celery also looks at the root's.
    """
    return [
        state
        for state in (requirement.state, *schema.leaves(requirement.state))
        if not state.old_rows_are_whole
    ]


def lists_tables(settings: WalExSettings, schema: Schema) -> bool:
    """Whether all tables are subscribed to, but the publications list tables: ``"*"`` then means those listed.

    Postgres can't turn a publication that lists tables into one FOR ALL TABLES.
    """
    return (
        settings.all_tables
        and not missing_publications(schema, settings)
        and not any(found.all_tables for found in schema.publications.values())
    )


def publication_changes(
    settings: WalExSettings, requirements: list[TableRequirement], schema: Schema, statements: Statements
) -> Iterator[Change]:
    """Create missing publications and add to existing ones; nothing is removed."""
    lacking = [state.table for state in unpublished(requirements, schema)]
    partitioned = any(requirement.state.partitioned for requirement in requirements)
    missing = missing_publications(schema, settings)
    all_published = any(publication.all_tables for publication in schema.publications.values())
    under_partitions = under_partitions_name(requirements, schema)
    first = settings.publication[0]
    for name in missing:
        # Unpublished tables go into the first publication. The others must exist, but may be empty.
        everything = settings.all_tables and not all_published and name == missing[0]
        tables = lacking if name == first and not everything else []
        yield Change(
            statements.create_publication(
                name, tables, all_tables=everything, via_root=partitioned and bool(everything or tables)
            ),
            f"publication {name!r} does not exist",
        )
    if lacking and first not in missing:
        yield Change(
            statements.add_tables(first, lacking),
            f"subscribed to, but in no publication: {', '.join(map(str, lacking))}",
        )
        roots = [state.table for state in unpublished(requirements, schema) if state.partitioned]
        if roots and not schema.publications[first].via_root:
            under_partitions.setdefault(first, []).extend(roots)
    for name, roots in under_partitions.items():
        names = ", ".join(map(str, roots))
        yield Change(
            statements.publish_via_root(name), f"rows would come under the names of partitions of {names}"
        )
    for name, operations in unpublished_operations(requirements, schema).items():
        names = ", ".join(operation for operation in PUBLISHED if operation in operations)
        yield Change(
            statements.publish(schema.publications[name], operations),
            f"handlers want {names}, which is not published",
        )


def newly_published(
    settings: WalExSettings, requirements: list[TableRequirement], schema: Schema
) -> list[TableState]:
    """The tables and partitions whose rows :func:`publication_changes` would begin to publish."""
    missing = missing_publications(schema, settings)
    if (
        settings.all_tables
        and missing
        and not any(found.all_tables for found in schema.publications.values())
    ):
        roots = list(schema.tables.values())
    else:
        roots = unpublished(requirements, schema)
    found = {leaf.oid: leaf for root in roots for leaf in (root, *schema.leaves(root))}
    return [
        state
        for state in found.values()
        if not state.partitioned and state.persistence == "p" and not schema.published_by(state)
    ]


def identity_changes(requirement: TableRequirement, schema: Schema, statements: Statements) -> list[Change]:
    """Set REPLICA IDENTITY FULL on a table and its partitions, if handlers need it and it is not set."""
    reasons = requirement.by_filters or requirement.by_changes
    return [
        Change(statements.identity_full(state), f"old values of {requirement.table}, for {reasons[0]}")
        for state in not_full(requirement, schema)
        if reasons
    ]


def dead_letters_are_used(settings: WalExSettings, handlers: Iterable[Handler]) -> bool:
    """Whether a handler's failures may be stored in the table ``walex.dead_letters``."""
    if settings.dead_letters not in ("auto", "postgres"):
        return False
    policies = [settings.on_error, *(getattr(handler, "on_error", None) for handler in handlers)]
    return settings.dead_letters == "postgres" or any(
        may_dead_letter(policy) for policy in policies if policy is not None
    )


_DEAD_LETTERS_OF = """
SELECT has_schema_privilege(%(role)s, n.oid, 'USAGE')
   AND has_table_privilege(%(role)s, c.oid, 'SELECT') AND has_table_privilege(%(role)s, c.oid, 'INSERT')
   AND has_table_privilege(%(role)s, c.oid, 'UPDATE') AND has_table_privilege(%(role)s, c.oid, 'DELETE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE (n.nspname, c.relname) = (%(schema)s, %(table)s)
"""


def dead_letter_changes(connection: Connection, role: str, statements: Statements) -> list[Change]:
    """Create the table ``walex.dead_letters``, and grant *role* access."""
    schema, table = TABLE.split(".")
    with connection.cursor() as cursor:
        cursor.execute(_DEAD_LETTERS_OF, {"role": role, "schema": schema, "table": table})
        found = cursor.fetchall()
    if found and found[0][0]:
        return []
    why = (
        f"role {role!r} lacks privileges on {TABLE}"
        if found
        else f"dead letters go to {TABLE}, which does not exist"
    )
    wanted = schema_sql(statements.role(role))
    return [Change(line, why) for line in wanted if not found or line.startswith("GRANT")]
