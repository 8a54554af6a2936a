"""Which statements make publications, replica identity and slot fit the subscriptions: ``setup``'s plan.

``doctor`` asks the same of each part alone, so that the two never disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from psycopg2.extensions import connection as Connection

from walex_celery.dead_letters import TABLE, schema_sql
from walex_celery.filters import Table
from walex_celery.handlers.kinds import PUBLISHED
from walex_celery.handlers.policies import may_dead_letter
from walex_celery.handlers.registry import Handler
from walex_celery.operations.setup.requirements import Need
from walex_celery.operations.setup.schema import Schema, TableState, missing_publications
from walex_celery.operations.setup.statements import Statements
from walex_celery.settings.model import WalExSettings


class Fit(msgspec.Struct, frozen=True):
    """One statement, and the sentence that says what for."""

    sql: str
    why: str


def unpublished(needs: list[Need], schema: Schema) -> list[TableState]:
    """Tables that subscriptions or handlers name, and no publication of the settings has."""
    return [need.state for need in needs if need.named and not schema.published_by(need.state)]


def under_partitions_name(needs: list[Need], schema: Schema) -> dict[str, list[Table]]:
    """Partitioned tables whose rows a publication sends under their partitions' names, by publication."""
    found: dict[str, list[Table]] = {}
    for need in needs:
        if need.state.partitioned:
            for publication in schema.published_by(need.state):
                if not publication.via_root:
                    found.setdefault(publication.name, []).append(need.table)
    return found


def unpublished_operations(needs: list[Need], schema: Schema) -> dict[str, set[str]]:
    """Types of events that handlers want and no publication of the table sends, by the first such publication."""
    found: dict[str, set[str]] = {}
    for need in needs:
        publications = schema.published_by(need.state)
        if not publications:
            continue
        sent = frozenset().union(*(publication.operations for publication in publications))
        if lacking := need.types - sent:
            found.setdefault(publications[0].name, set()).update(lacking)
    return found


def not_full(need: Need, schema: Schema) -> list[TableState]:
    """The table and its partitions, those of them whose old rows are not whole.

    Postgres takes the identity of the table that a row is stored in; walex-celery looks at the root's too.
    """
    return [state for state in (need.state, *schema.leaves(need.state)) if not state.old_rows_are_whole]


def lists_tables(settings: WalExSettings, schema: Schema) -> bool:
    """Whether all tables are subscribed to, and the publications list some: ``"*"`` is then what they list.

    Postgres can't make a publication that lists tables one FOR ALL TABLES.
    """
    return (
        settings.all_tables
        and not missing_publications(schema, settings)
        and not any(found.all_tables for found in schema.publications.values())
    )


def fit_publications(
    settings: WalExSettings, needs: list[Need], schema: Schema, statements: Statements
) -> Iterator[Fit]:
    """Make what is missing, add to what is there; nothing is taken away."""
    lacking = [state.table for state in unpublished(needs, schema)]
    partitioned = any(need.state.partitioned for need in needs)
    missing = missing_publications(schema, settings)
    all_published = any(publication.all_tables for publication in schema.publications.values())
    under_partitions = under_partitions_name(needs, schema)
    first = settings.publication[0]
    for name in missing:
        # What is missing goes into the first. The others must be there, and may be empty.
        everything = settings.all_tables and not all_published and name == missing[0]
        tables = lacking if name == first and not everything else []
        yield Fit(
            statements.create_publication(
                name, tables, all_tables=everything, via_root=partitioned and bool(everything or tables)
            ),
            f"publication {name!r} does not exist",
        )
    if lacking and first not in missing:
        told = ", ".join(map(str, lacking))
        yield Fit(statements.add_tables(first, lacking), f"subscribed to, and in no publication: {told}")
        roots = [state.table for state in unpublished(needs, schema) if state.partitioned]
        if roots and not schema.publications[first].via_root:
            under_partitions.setdefault(first, []).extend(roots)
    for name, roots in under_partitions.items():
        told = ", ".join(map(str, roots))
        yield Fit(
            statements.publish_via_root(name), f"rows would come under the names of partitions of {told}"
        )
    for name, operations in unpublished_operations(needs, schema).items():
        told = ", ".join(operation for operation in PUBLISHED if operation in operations)
        yield Fit(
            statements.publish(schema.publications[name], operations),
            f"handlers want {told}, which is not published",
        )


def newly_published(settings: WalExSettings, needs: list[Need], schema: Schema) -> list[TableState]:
    """The tables, partitions for themselves, whose rows :func:`fit_publications` would begin to publish."""
    missing = missing_publications(schema, settings)
    if (
        settings.all_tables
        and missing
        and not any(found.all_tables for found in schema.publications.values())
    ):
        roots = list(schema.tables.values())
    else:
        roots = unpublished(needs, schema)
    found = {leaf.oid: leaf for root in roots for leaf in (root, *schema.leaves(root))}
    return [
        state
        for state in found.values()
        if not state.partitioned and state.persistence == "p" and not schema.published_by(state)
    ]


def fit_identity(need: Need, schema: Schema, statements: Statements) -> list[Fit]:
    """Give a table and its partitions the identity FULL, where they don't have it."""
    reasons = need.by_filters or need.by_changes
    return [
        Fit(statements.identity_full(state), f"old values of {need.table}, for {reasons[0]}")
        for state in not_full(need, schema)
        if reasons
    ]


def dead_letters_are_used(settings: WalExSettings, handlers: Iterable[Handler]) -> bool:
    """Whether a handler's failures may go to the table ``walex.dead_letters``."""
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


def fit_dead_letters(connection: Connection, role: str, statements: Statements) -> list[Fit]:
    """Make the table ``walex.dead_letters``, and let *role* use it."""
    schema, table = TABLE.split(".")
    with connection.cursor() as cursor:
        cursor.execute(_DEAD_LETTERS_OF, {"role": role, "schema": schema, "table": table})
        found = cursor.fetchall()
    if found and found[0][0]:
        return []
    why = (
        f"role {role!r} may not use {TABLE}"
        if found
        else f"dead letters are to go to {TABLE}, which is missing"
    )
    wanted = schema_sql(statements.role(role))
    return [Fit(line, why) for line in wanted if not found or line.startswith("GRANT")]
