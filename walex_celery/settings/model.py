"""Settings: where each comes from, what is right, and how they change while the producer runs.

A setting is a keyword of :class:`~walex_celery.WalEx`, else an environment variable ``WALEX_<NAME>``, else a
line of ``.env``, else ``app.conf.walex_<name>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Annotated, Any, Final, NamedTuple, TypeVar, overload
from urllib.parse import parse_qs, unquote, urlsplit

from psycopg2 import ProgrammingError
from psycopg2.extensions import make_dsn
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ImportString,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from walex_celery.errors import ConfigurationError
from walex_celery.filters import ALL_TABLES, OWN_SCHEMA, Table, table_of
from walex_celery.handlers.policies import DeadLetter, Halt, Retry, on_error_of
from walex_celery.postgres.parameters import ConnectionSettings, SlotSettings
from walex_celery.settings.hosts import DEFAULT_PORT, check_ports, hosts_of, split_hosts

#: Postgres cuts longer names off (NAMEDATALEN - 1), which would make two slots one.
MAX_NAME_BYTES: Final = 63

#: Connection parameters that are settings of their own (a password must stay one), or the producer's to choose.
OWN_PARAMETERS: Final = frozenset(
    {
        "host", "port", "user", "password", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey",
        "connect_timeout", "sslpassword", "client_encoding", "options", "replication", "application_name",
    }
)  # fmt: skip

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


def _check_subscriptions(entries: Sequence[Any]) -> tuple[Any, ...]:
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


def _check_libpq(parameters: Mapping[str, str]) -> dict[str, str]:
    """*parameters* as they are, if libpq knows them all and none is this project's own to set."""
    own = sorted(parameters.keys() & OWN_PARAMETERS)
    if own:
        raise ValueError(
            f"{', '.join(own)} can't be given here: it is a setting of its own, or the producer's"
        )
    unknown = [name for name in parameters if not _is_libpq(name)]
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; libpq has no such connection parameter")
    return dict(parameters)


def _is_libpq(parameter: str) -> bool:
    try:
        make_dsn(**{parameter: "0"})
    except ProgrammingError:
        return False
    return True


def _check_url(url: Any) -> Any:
    text = url.get_secret_value() if isinstance(url, SecretStr) else url
    if text and isinstance(text, str):
        parse_url(text)
    return url


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_list)]


class EventModules(BaseSettings):
    """The settings that tell where handlers are; all that a worker needs."""

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
        tuple[Any, ...], NoDecode, BeforeValidator(_as_list), AfterValidator(_check_subscriptions)
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
        """Keywords, the environment, ``.env``, then ``app.conf``; each with the parts of its own url."""
        if _celery_conf.get() is None:
            # Settings made of others (see changed): where those came from has been asked.
            return (init_settings,)
        sources = (init_settings, env_settings, dotenv_settings, _CelerySource(settings_cls))
        return tuple(_UrlParts(source) for source in sources)


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

    libpq: Annotated[dict[str, str], AfterValidator(_check_libpq)] = Field(
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
        # A Spool says so; this file is below its own.
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
            application_name=f"walex {self.name}",
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


# None while nothing is being loaded.
_celery_conf: ContextVar[Mapping[str, Any] | None] = ContextVar("_celery_conf", default=None)


class _CelerySource(PydanticBaseSettingsSource):
    """``app.conf.walex_<name>``, of the application whose settings are being loaded."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return (_celery_conf.get() or {}).get(f"walex_{field_name}"), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in found.items() if value is not None}


class _UrlParts(PydanticBaseSettingsSource):
    """A source, its ``url`` taken apart: a part that it also gives singly wins, and both win over later sources."""

    def __init__(self, source: PydanticBaseSettingsSource) -> None:
        super().__init__(source.settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        self._source._set_current_state(self.current_state)
        self._source._set_settings_sources_data(self.settings_sources_data)
        values = self._source()
        url = values.get("url")
        text = url.get_secret_value() if isinstance(url, SecretStr) else url
        try:
            parts = parse_url(text) if text and isinstance(text, str) else {}
        except ValueError:
            # The url's own validator says what is wrong with it; its database is not missing besides.
            parts = {"database": "?"}
        return {**parts, **values}


def parse_url(url: str) -> dict[str, Any]:
    """The settings that a ``postgresql://`` url says.

    Raises:
        ValueError: if it is none; the message does not repeat it, for it may hold a password.
    """
    try:
        parts = urlsplit(url)
        hostname, ports = split_hosts(parts.netloc)
        port = None if ports is None else check_ports(ports)
    except ValueError:
        raise ValueError("not a URL; one looks like postgresql://user:password@host:5432/database") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError("must begin with postgresql://, as in postgresql://user:password@host:5432/database")
    if "@" in parts.path + parts.query + parts.fragment:
        # A password with one of these ends the host early: its rest must not be taken, and told, for something else.
        raise ValueError("in a user, password or database write / as %2F, ? as %3F, # as %23 and @ as %40")
    database = unquote(parts.path.lstrip("/"))
    if "/" in database:
        raise ValueError("what follows the host must be one database name, as in postgresql://host/database")
    # As libpq has it: a plus is a plus.
    options = {key: values[-1] for key, values in parse_qs(parts.query.replace("+", "%2B")).items()}
    found = {
        "hostname": options.pop("host", None) or hostname,
        "port": options.pop("port", None) or port,
        "username": options.pop("user", None) or (unquote(parts.username) if parts.username else None),
        "password": options.pop("password", None) or (unquote(parts.password) if parts.password else None),
        "database": options.pop("dbname", None) or database,
    }
    own = {"sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout"}
    further = _check_libpq({key: value for key, value in options.items() if key not in own})
    named = {key: value for key, value in options.items() if key in own}
    return {key: value for key, value in {**found, **named, "libpq": further}.items() if value}


def without_password(url: str) -> str:
    """*url* for people to see: its parts but for the password; ``***`` if it can't be read.

    >>> without_password("postgresql://shop:secret@db/shop?sslmode=require")
    'postgresql://shop:***@db/shop'
    """
    try:
        parts = parse_url(url)
    except ValueError:
        return "***"
    user = f"{parts['username']}:***@" if "username" in parts else ""
    port = f":{parts['port']}" if "port" in parts else ""
    return f"postgresql://{user}{parts.get('hostname', '')}{port}/{parts.get('database', '')}"


def parse_url_or_complain(url: Any) -> dict[str, Any]:
    """The parts of *url*, or a :class:`ConfigurationError`."""
    try:
        return parse_url(url.get_secret_value() if isinstance(url, SecretStr) else str(url))
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


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
    token = _celery_conf.set(conf)
    try:
        return kind(**{key: value for key, value in keywords.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError(_describe(error)) from None
    finally:
        _celery_conf.reset(token)


def _describe(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        setting = str(problem["loc"][0]) if problem["loc"] else ""
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            field = WalExSettings.model_fields[setting]
            text = f"missing ({field.description})"
        where = f"{setting}: " if setting else ""
        mend = (
            f" [keyword {setting}=, WALEX_{setting.upper()}, or app.conf.walex_{setting}]" if setting else ""
        )
        lines.append(f"  {where}{text}{mend}")
    return "\n".join(["these walex settings are missing or wrong:", *lines])


#: What add_config and remove_config may change, and what only replace_config may.
LIST_KEYS: Final = frozenset({"subscriptions", "modules", "publication"})
CONNECTION_KEYS: Final = frozenset(
    {
        "url", "hostname", "port", "username", "password", "database",
        "sslmode", "sslrootcert", "sslcert", "sslkey", "libpq", "publication", "durable_slot", "slot_name",
        "failover",
    }
)  # fmt: skip
#: Of these, the ones that say which slot of which server is read.
PLACE_KEYS: Final = frozenset({"hostname", "port", "database", "durable_slot", "slot_name", "libpq"})
_URL_PARTS: Final = (
    "hostname", "port", "username", "password", "database", "sslmode", "sslrootcert", "sslcert", "sslkey", "libpq"
)  # fmt: skip
REPLACE_KEYS: Final = LIST_KEYS | CONNECTION_KEYS | {"message_middleware", "on_error", "dead_letters"}


def changed(settings: WalExSettings, action: str, key: str, value: Any) -> WalExSettings:
    """*settings* after ``add``, ``remove`` or ``replace`` of *key*.

    Raises:
        ConfigurationError: for a key that may not change so, or a value that is wrong.
    """
    allowed = REPLACE_KEYS if action == "replace" else LIST_KEYS
    if key not in allowed:
        raise ConfigurationError(
            f"{action}_config can't change {key!r} while the producer runs; it takes {', '.join(sorted(allowed))}"
        )
    current = {name: getattr(settings, name) for name in WalExSettings.model_fields}
    if key == "url":
        # Whole: what it does not say is not left over from the one before.
        current |= {**dict.fromkeys(_URL_PARTS), **parse_url_or_complain(value)}
    elif key in CONNECTION_KEYS:
        # The url has been taken apart at the start; kept beside the parts it would hide the new one.
        current["url"] = None
    if action != "replace":
        values = (
            list(value) if isinstance(value, list | tuple | set) and not isinstance(value, Table) else [value]
        )
        before = list(current.get(key, ()))
        if key == "subscriptions":
            values = list(_check_subscriptions(values))
        value = (
            before + [entry for entry in values if entry not in before]
            if action == "add"
            else [entry for entry in before if entry not in values]
        )
    current[key] = value
    try:
        return WalExSettings(**{name: held for name, held in current.items() if held is not None})
    except ValidationError as error:
        raise ConfigurationError(_describe(error)) from None


class Reloaded(NamedTuple):
    """What reading the settings anew came to.

    Attributes:
        settings: the ones in force now.
        changed: the names of those that are others than before.
        needs_restart: the names of those that have changed too, and can't while the producer runs.
    """

    settings: WalExSettings
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


def reloaded(current: WalExSettings, loaded: WalExSettings, anew: WalExSettings) -> Reloaded:
    """*current* with what is different in *anew* from *loaded*; what was changed while running stays.

    Args:
        current: in force now.
        loaded: as their sources last gave them.
        anew: as their sources give them now.

    Raises:
        ConfigurationError: they don't go together.
    """
    different = [
        name
        for name in WalExSettings.model_fields
        if name != "url" and getattr(loaded, name) != getattr(anew, name)
    ]
    replaceable = REPLACE_KEYS - {"message_middleware"}
    names = tuple(name for name in different if name in replaceable)
    values = {name: getattr(current, name) for name in WalExSettings.model_fields}
    values |= {name: getattr(anew, name) for name in names}
    if CONNECTION_KEYS.intersection(names):
        # Its parts are settings of their own; kept beside them it would hide the new ones.
        values["url"] = None
    try:
        settings = WalExSettings(**{name: held for name, held in values.items() if held is not None})
    except ValidationError as error:
        raise ConfigurationError(_describe(error)) from None
    return Reloaded(settings, names, tuple(name for name in different if name not in replaceable))
