"""Settings: what there are, and what is right.

A setting is a keyword of :class:`~walex_celery.WalEx`, else an environment variable ``WALEX_<NAME>``, else a
line of ``.env``, else ``app.conf.walex_<name>``.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar, overload

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ImportString,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from walex_celery.errors import ConfigurationError
from walex_celery.filters import ALL_TABLES, OWN_SCHEMA, Table, table_of
from walex_celery.handlers.policies import DeadLetter, Halt, Retry, on_error_of
from walex_celery.postgres.parameters import ConnectionSettings, SlotSettings
from walex_celery.settings.hosts import DEFAULT_PORT, check_ports, hosts_of
from walex_celery.settings.misspelt import misspelt
from walex_celery.settings.sources import loading_from, sources_of
from walex_celery.settings.url import check_libpq, parse_url

logger = logging.getLogger("walex_celery.settings")

#: Postgres cuts longer names off (NAMEDATALEN - 1), which would make two slots one.
MAX_NAME_BYTES: Final = 63

_SLOT_NAME = re.compile(r"[a-z0-9_]+")


def slot_name_for(name: str) -> str:
    """The slot's name for an application's, as WalEx makes it.

    >>> slot_name_for("my_company.Shop")
    'shop_walex'
    """
    return re.sub(r"[^a-z0-9_]", "_", name.rsplit(".", 1)[-1].lower()) + "_walex"


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        # From the environment: 'users, sales.orders', or JSON as pydantic-settings has it.
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def check_subscriptions(entries: Sequence[Any]) -> tuple[Any, ...]:
    """*entries* as tables, each once; ``"*"`` for all.

    Raises:
        ValueError: one names no table, or one of walex-celery's own.
    """
    checked = tuple(ALL_TABLES if entry in (ALL_TABLES, "all") else table_of(entry) for entry in entries)
    for table in checked:
        if isinstance(table, Table) and table.schema == OWN_SCHEMA:
            raise ValueError(
                f"{table}: schema {OWN_SCHEMA} holds walex-celery's own tables, which make no events"
            )
    return tuple(dict.fromkeys(checked))


def _check_slot_name(name: str | None) -> str | None:
    if name is not None and (not _SLOT_NAME.fullmatch(name) or len(name) > MAX_NAME_BYTES):
        raise ValueError(
            f"{name!r} can't name a slot: lower-case letters, digits and underscores, {MAX_NAME_BYTES} at most"
        )
    return name


def _check_name(name: str) -> str:
    if not re.search(r"[a-z0-9]", name.rsplit(".", 1)[-1].lower()):
        raise ValueError(f"{name!r} has no letter or digit in its last dotted part")
    return name


def _check_publications(names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        raise ValueError("name at least one publication, such as 'events'")
    for name in names:
        if not name or len(name.encode()) > MAX_NAME_BYTES:
            raise ValueError(f"{name!r} can't name a publication: 1 to {MAX_NAME_BYTES} bytes")
    return tuple(dict.fromkeys(names))


def _check_url(url: Any) -> Any:
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    if text and isinstance(text, str):
        parse_url(text)
    return url


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_list)]


class EventModules(BaseSettings):
    """The settings that say where handlers are: all that a worker needs."""

    model_config = SettingsConfigDict(
        env_prefix="WALEX_",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    name: Annotated[str, AfterValidator(_check_name)] = Field(
        description="the instance; part of task ids and of the slot's default name"
    )
    subscriptions: Annotated[
        tuple[Any, ...], NoDecode, BeforeValidator(_as_list), AfterValidator(check_subscriptions)
    ] = Field(
        (), description="tables: 'users', 'sales.orders', 'sales:orders', a model class, or '*' for all"
    )
    modules: Names = Field((), description="modules with handlers, besides <name>.events.<table>")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """See :func:`~walex_celery.settings.sources.sources_of`."""
        return sources_of(settings_cls, init_settings, env_settings, dotenv_settings)


class WalExSettings(EventModules):
    """All settings of one application; :func:`load_settings` makes it. Frozen: a change makes a new one."""

    url: Annotated[SecretStr | None, BeforeValidator(_check_url)] = Field(
        None, description="postgresql://user:password@host:port/database?sslmode=..."
    )
    hostname: str = Field(
        "localhost", description="of the Postgres server, or the folder of its socket; several: 'a,b'"
    )
    port: Annotated[int | str, BeforeValidator(check_ports)] = Field(
        DEFAULT_PORT, description="of the Postgres server; several: '5432,5433'"
    )
    username: str | None = Field(None, description="a role with the REPLICATION attribute")
    password: SecretStr | None = Field(None, description="of the role")
    database: str = Field(min_length=1, description="the database whose changes are read")
    sslmode: str | None = Field(
        None,
        pattern="^(disable|allow|prefer|require|verify-ca|verify-full)$",
        description="as libpq has it: disable, allow, prefer, require, verify-ca, verify-full",
    )
    sslrootcert: str | None = Field(None, description="file of the certificate authority")
    sslcert: str | None = Field(None, description="file of the client certificate")
    sslkey: str | None = Field(None, description="file of the client certificate's key")
    connect_timeout: float = Field(10, gt=0, description="seconds for a connection to Postgres to be made")

    libpq: Annotated[dict[str, str], AfterValidator(check_libpq)] = Field(
        {}, description="further parameters of libpq, such as channel_binding or target_session_attrs"
    )

    publication: Annotated[Names, AfterValidator(_check_publications)] = Field(
        description="the publication, or several"
    )
    durable_slot: bool = Field(
        False, description="keep the slot, and so every change, while no producer runs"
    )
    failover: bool = Field(
        False,
        description="let standby servers have the slot too, for when one is promoted (Postgres 17 and newer)",
    )
    slot_name: Annotated[str | None, AfterValidator(_check_slot_name)] = Field(
        None, description="default: the name's last dotted part, then _walex"
    )
    message_middleware: ImportString[Callable[..., Any]] | None = Field(
        None, description="callable(message, app_name) between the stream and the processing"
    )
    numbers: Literal["auto", "decimal"] = Field(
        "auto",
        description="in json and jsonb, written with a fraction or exponent: 'auto' makes a float where that is exact "
        "and a Decimal elsewhere, 'decimal' always a Decimal",
    )
    publish_timeout: float = Field(30, gt=0, description="seconds for the broker to confirm a batch")
    max_waiting_bytes: int = Field(
        64 * 2**20,
        ge=2**20,
        description="of tasks that wait for the broker; nothing more is processed beyond",
    )
    exactly_once_enqueue: bool = Field(
        False, description="Redis and Valkey: no task is enqueued twice, even after a crash"
    )
    reconnect_timeout: float | None = Field(
        None,
        gt=0,
        description="seconds of failed reconnects after which the producer gives up; default: never",
    )
    on_error: Annotated[Halt | Retry | DeadLetter, NoDecode, BeforeValidator(on_error_of)] = Field(
        Halt(),
        description="when a handler fails: halt, retry, dead_letter, or retry:limit=10,then=dead_letter",
    )
    dead_letters: str = Field(
        "auto",
        min_length=1,
        description="where they are stored: postgres, a file, or auto: the table walex.dead_letters, else a file",
    )
    flower: bool = Field(True, description="appear among the workers in Flower and 'celery events'")
    log_interval: float = Field(10, gt=0, description="seconds between the producer's progress lines")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="serve /metrics, /healthz and /readyz on this port; 0 for any"
    )
    metrics_host: str = Field(
        "0.0.0.0", min_length=1, description="the address that metrics_port is opened on"
    )

    @model_validator(mode="after")
    def _check_default_slot_name(self) -> WalExSettings:
        if len(self.slot) > MAX_NAME_BYTES:
            raise ValueError(
                f"name: {self.name!r} makes the slot's name longer than {MAX_NAME_BYTES} bytes; set slot_name="
            )
        return self

    @model_validator(mode="after")
    def _check_durable_slot(self) -> WalExSettings:
        # An attribute, since settings know nothing of the Spool that has it.
        if getattr(self.message_middleware, "needs_durable_slot", False) and not self.durable_slot:
            raise ValueError(
                f"durable_slot: {self.message_middleware!r} keeps what a temporary slot would lose anyway; "
                "set durable_slot=True"
            )
        if self.failover and not self.durable_slot:
            raise ValueError("failover: a temporary slot is on no standby server; set durable_slot=True")
        return self

    @model_validator(mode="after")
    def _check_hosts(self) -> WalExSettings:
        try:
            hosts_of(self.hostname, self.port)
        except ValueError as error:
            raise ValueError(f"port: {error}") from None
        return self

    @model_validator(mode="after")
    def _check_exactly_once(self) -> WalExSettings:
        if self.exactly_once_enqueue and not self.durable_slot:
            raise ValueError(
                "exactly_once_enqueue: it needs a durable slot, for a temporary one loses changes; "
                "set durable_slot=True"
            )
        return self

    @property
    def slot(self) -> str:
        """The slot's name."""
        return self.slot_name or slot_name_for(self.name)

    @property
    def all_tables(self) -> bool:
        """Whether every table is subscribed to."""
        return ALL_TABLES in self.subscriptions

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables that subscriptions name."""
        return tuple(table for table in self.subscriptions if isinstance(table, Table))

    def subscribes_to(self, table: Table) -> bool:
        """Whether *table* is subscribed to."""
        return self.all_tables or table in self.subscriptions

    def connection_settings(self) -> ConnectionSettings:
        """How to connect to the database: what ``walex_celery.postgres`` is given of these settings."""
        return ConnectionSettings(
            hosts=tuple((host, int(port)) for host, port in hosts_of(self.hostname, self.port)),
            database=self.database,
            user=self.username,
            password=self.password.get_secret_value() if self.password else None,
            application_name=self.libpq.get("application_name", f"walex {self.name}"),
            sslmode=self.sslmode,
            sslrootcert=self.sslrootcert,
            sslcert=self.sslcert,
            sslkey=self.sslkey,
            connect_timeout=self.connect_timeout,
            libpq=self.libpq,
            hidden=(self.url.get_secret_value(),) if self.url else (),
        )

    def slot_settings(self) -> SlotSettings:
        """Which slot is read, and where."""
        tables = () if self.all_tables else self.subscriptions
        return SlotSettings(
            connection=self.connection_settings(),
            name=self.slot,
            publications=self.publication,
            durable=self.durable_slot,
            failover=self.failover,
            tables=tuple((table.schema, table.name) for table in tables),
        )

    def secrets(self) -> list[str]:
        """What must never be shown: the password, and the url that may hold it."""
        return self.connection_settings().secrets()

    def address(self) -> str:
        """Where the database is, as readable text: ``user@host:port/database``, never with a password."""
        return self.connection_settings().address()


SettingsT = TypeVar("SettingsT", bound=EventModules)


@overload
def load_settings(keywords: Mapping[str, Any], conf: Mapping[str, Any]) -> WalExSettings: ...
@overload
def load_settings(
    keywords: Mapping[str, Any], conf: Mapping[str, Any], kind: type[SettingsT]
) -> SettingsT: ...
def load_settings(
    keywords: Mapping[str, Any], conf: Mapping[str, Any], kind: type[EventModules] = WalExSettings
) -> EventModules:
    """The settings of an application, from its keywords, the environment, ``.env`` and *conf*.

    Raises:
        ConfigurationError: one, naming every setting that is missing or wrong. It repeats no secret.
    """
    if kind is WalExSettings:
        # Before they are read: one that is missing may be one of these.
        for warning in misspelt(kind, [key for key, value in keywords.items() if value is not None], conf):
            logger.warning(warning)
    with loading_from(conf):
        try:
            return kind(**{key: value for key, value in keywords.items() if value is not None})
        except ValidationError as error:
            raise ConfigurationError(describe(error)) from None


def describe(error: ValidationError) -> str:
    """One line for each setting that is missing or wrong, with the places where it can be set."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        setting = str(problem["loc"][0]) if problem["loc"] else ""
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            field = WalExSettings.model_fields[setting]
            text = f"missing ({field.description})"
        where = f"{setting}: " if setting else ""
        places = (
            f" [keyword {setting}=, WALEX_{setting.upper()}, or app.conf.walex_{setting}]" if setting else ""
        )
        lines.append(f"  {where}{text}{places}")
    return "\n".join(["these walex settings are missing or wrong:", *lines])
