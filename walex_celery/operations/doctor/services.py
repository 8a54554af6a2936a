"""Managed Postgres services: how to recognize them, and how to change a parameter there.

Sources: the services' manuals on logical replication.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from walex_celery.database.finding import Step, do, shell, sql


class Service(msgspec.Struct, frozen=True):
    """A managed service.

    Attributes:
        name: as its users call it.
        parameters: server parameters that identify it.
        roles: roles that identify it.
        set_parameter: the step that sets a server parameter, with ``{name}`` and ``{value}``.
        restart: the step that restarts the server.
        logical: the steps that enable logical decoding.
        replication_role: the role to grant instead of the REPLICATION attribute; or empty.
    """

    name: str
    parameters: tuple[str, ...]
    roles: tuple[str, ...]
    set_parameter: Step
    restart: Step
    logical: tuple[Step, ...]
    replication_role: str = ""

    def setting(self, name: str, value: str, *, restart: bool) -> tuple[Step, ...]:
        """The steps that set a server parameter."""
        line = self.set_parameter.line.replace("{name}", name).replace("{value}", value)
        return (Step(self.set_parameter.how, line), *([self.restart] if restart else ()))


def _shell(line: str) -> Step:
    (step,) = shell(line)
    return step


_RDS = (
    "aws rds modify-db-parameter-group --db-parameter-group-name GROUP --parameters"
    " 'ParameterName={name},ParameterValue={value},ApplyMethod=pending-reboot'"
)
_RDS_RESTART = _shell("aws rds reboot-db-instance --db-instance-identifier INSTANCE")
_AZURE = (
    "az postgres flexible-server parameter set --resource-group GROUP --server-name SERVER"
    " --name {name} --value {value}"
)
_AZURE_RESTART = _shell("az postgres flexible-server restart --resource-group GROUP --name SERVER")
_GOOGLE = "gcloud sql instances patch INSTANCE --database-flags={name}={value}"
_GOOGLE_NOTE = do("--database-flags replaces all flags: repeat those that are already set")

SERVICES: Final = (
    Service(
        "Amazon RDS or Aurora",
        ("rds.logical_replication", "rds.extensions"),
        ("rds_superuser",),
        _shell(_RDS),
        _RDS_RESTART,
        (
            _shell(_RDS.replace("{name}", "rds.logical_replication").replace("{value}", "1")),
            _RDS_RESTART,
        ),
        "rds_replication",
    ),
    Service(
        "Google Cloud SQL",
        ("cloudsql.logical_decoding", "cloudsql.iam_authentication"),
        ("cloudsqlsuperuser", "cloudsqladmin"),
        _shell(_GOOGLE),
        _shell("gcloud sql instances restart INSTANCE"),
        (
            _shell(_GOOGLE.replace("{name}", "cloudsql.logical_decoding").replace("{value}", "on")),
            *_GOOGLE_NOTE,
        ),
    ),
    Service(
        "Azure Database for PostgreSQL",
        ("azure.replication_support", "azure.extensions"),
        ("azure_pg_admin", "azuresu"),
        _shell(_AZURE),
        _AZURE_RESTART,
        (
            _shell(_AZURE.replace("{name}", "wal_level").replace("{value}", "logical")),
            *do("On the older Single Server: azure.replication_support = LOGICAL"),
            _AZURE_RESTART,
        ),
    ),
    Service(
        "Supabase",
        (),
        ("supabase_admin",),
        _shell("supabase --experimental postgres-config update --config {name}={value}"),
        do("Restart the database: Project Settings, General, Restart project")[0],
        do(
            "wal_level is always logical there: connect directly (db.PROJECT.supabase.co:5432), not through the pooler "
            "(pooler.supabase.com), and restart the project if it is an old one"
        ),
    ),
    Service(
        "Neon",
        ("neon.timeline_id", "neon.tenant_id"),
        ("neon_superuser",),
        do("Only Neon can set {name}: ask their support for {value}")[0],
        do("Restart the compute: Branches, Computes, Restart")[0],
        do(
            "Switch it on in the console: Settings, Logical Replication, Enable; and connect directly: the host "
            "without -pooler"
        ),
    ),
)


def service_of(rows: Callable[[str, list[Any]], list[tuple[Any, ...]]]) -> Service | None:
    """The service whose parameters or roles the server has; *rows* queries it."""
    for service in SERVICES:
        # By current_setting(): pg_settings does not show parameters of extensions that are not loaded.
        found = rows(
            "SELECT EXISTS (SELECT FROM unnest(%s::text[]) AS name WHERE current_setting(name, true) IS NOT NULL)"
            " OR EXISTS (SELECT FROM pg_roles WHERE rolname = ANY (%s::text[]))",
            [list(service.parameters), list(service.roles)],
        )
        if found[0][0]:
            return service
    return None


_RESTART: Final = shell("systemctl restart postgresql")
_RELOAD: Final = sql("SELECT pg_reload_conf();")


def set_parameter(service: Service | None, name: str, value: str, *, restart: bool) -> tuple[Step, ...]:
    """The steps that set a server parameter, for its service."""
    if service is not None:
        if name == "wal_level":
            return service.logical
        return service.setting(name, value, restart=restart)
    quoted = value if value.isalpha() or value.isdigit() else f"'{value}'"
    return (*sql(f"ALTER SYSTEM SET {name} = {quoted};"), *(_RESTART if restart else _RELOAD))
