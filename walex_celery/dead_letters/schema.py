"""The table ``walex.dead_letters`` in the source database."""

from __future__ import annotations

from typing import Final

from walex_celery.filters import OWN_SCHEMA

TABLE: Final = f"{OWN_SCHEMA}.dead_letters"

#: In this order, for those who run them.
_STATEMENTS: Final = (
    f"CREATE SCHEMA IF NOT EXISTS {OWN_SCHEMA};",
    f"""CREATE TABLE IF NOT EXISTS {TABLE} (
    id text PRIMARY KEY,
    kind text NOT NULL,
    instance text NOT NULL,
    system_identifier numeric(20) NOT NULL,
    handler text NOT NULL,
    registration text NOT NULL,
    task_id text NOT NULL,
    lsn pg_lsn NOT NULL,
    xid bigint,
    first_index bigint NOT NULL,
    tables text[] NOT NULL,
    event_count integer NOT NULL,
    events text[] NOT NULL,
    error_type text NOT NULL,
    error text NOT NULL,
    traceback text NOT NULL,
    committed_at timestamptz NOT NULL,
    failed_at timestamptz NOT NULL,
    tried_at timestamptz NOT NULL,
    tries integer NOT NULL
);""",
)


def schema_sql(role: str | None = None) -> list[str]:
    """The statements that create the table; harmless if it exists.

    Args:
        role: a role to grant access to, if another one creates the table; a quoted identifier.
    """
    statements = list(_STATEMENTS)
    if role is not None:
        statements += [
            f"GRANT USAGE ON SCHEMA {OWN_SCHEMA} TO {role};",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE} TO {role};",
        ]
    return statements
