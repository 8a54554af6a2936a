"""Settings: where each comes from, what is refused and how it is said, and changes (promises 8 and 9)."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from walex_celery import ConfigurationError
from walex_celery.filters import Table
from walex_celery.postgres.parameters import ConnectionSettings, SlotSettings
from walex_celery.settings.changes import changed
from walex_celery.settings.model import EventModules, WalExSettings, load_settings, slot_name_for
from walex_celery.settings.url import parse_url

SECRET = "hunter2"
LEAST: dict[str, Any] = {"name": "shop", "database": "shop", "publication": "events"}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .env of its own, if any."""
    monkeypatch.chdir(tmp_path)


def load(conf: Mapping[str, Any] | None = None, **keywords: Any) -> WalExSettings:
    return load_settings({**LEAST, **keywords}, conf or {})


def told(error: BaseException) -> str:
    """Everything that a log would show of it."""
    return "".join(traceback.format_exception(error)) + repr(error)


# Where they come from.


def test_the_defaults() -> None:
    settings = load()

    assert (settings.hostname, settings.port, settings.username, settings.password) == (
        "localhost", 5432, None, None
    )  # fmt: skip
    assert (settings.publication, settings.subscriptions, settings.modules) == (("events",), (), ())
    assert (settings.durable_slot, settings.slot, settings.message_middleware) == (False, "shop_walex", None)


def test_a_keyword_wins_over_the_environment_over_the_file_over_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("WALEX_USERNAME=file\nWALEX_PASSWORD=file\nWALEX_HOSTNAME=file\n")
    monkeypatch.setenv("WALEX_PASSWORD", "environment")
    monkeypatch.setenv("WALEX_HOSTNAME", "environment")
    conf = dict.fromkeys(("walex_sslrootcert", "walex_username", "walex_password", "walex_hostname"), "conf")

    settings = load(conf, hostname="keyword")

    assert settings.password is not None
    assert (
        settings.hostname, settings.password.get_secret_value(), settings.username, settings.sslrootcert
    ) == ("keyword", "environment", "file", "conf")  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        ("url", "postgresql://db/x", None),
        ("hostname", "db", "db"),
        ("port", "6432", 6432),
        ("username", "me", "me"),
        ("password", SECRET, None),
        ("database", "other", "other"),
        ("sslmode", "require", "require"),
        ("sslrootcert", "ca.pem", "ca.pem"),
        ("sslcert", "me.pem", "me.pem"),
        ("sslkey", "me.key", "me.key"),
        ("publication", "a, b", ("a", "b")),
        ("subscriptions", "users, sales.orders", (Table("public", "users"), Table("sales", "orders"))),
        ("subscriptions", '["users", "sales:orders"]', (Table("public", "users"), Table("sales", "orders"))),
        ("subscriptions", "*", ("*",)),
        ("modules", "shop.handlers", ("shop.handlers",)),
        ("name", "store", "store"),
        ("durable_slot", "true", True),
        ("slot_name", "mine", "mine"),
        ("message_middleware", "os.path:join", __import__("os").path.join),
        ("publish_timeout", "5", 5.0),
        ("reconnect_timeout", "60", 60.0),
        ("log_interval", "1", 1.0),
        ("connect_timeout", "3", 3.0),
    ],
)
@pytest.mark.parametrize("source", ["keyword", "environment", "file", "application"])
def test_every_setting_from_every_source(
    source: str, setting: str, text: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = {key: held for key, held in LEAST.items() if key != setting}
    conf: dict[str, str] = {}
    match source:
        case "keyword":
            rest[setting] = text
        case "environment":
            monkeypatch.setenv(f"WALEX_{setting.upper()}", text)
        case "file":
            (tmp_path / ".env").write_text(f"WALEX_{setting.upper()}='{text}'\n")
        case "application":
            conf[f"walex_{setting}"] = text

    found = getattr(load_settings(rest, conf), setting)

    if isinstance(found, SecretStr):
        assert found.get_secret_value() == text
    else:
        assert found == value


# The url and its single parts.


def test_the_url_says_it_all() -> None:
    settings = load(
        database=None, url=f"postgresql://me:{SECRET}@db:6432/shop?sslmode=verify-full&sslrootcert=ca.pem"
    )

    assert settings.address() == "me@db:6432/shop"
    assert settings.password == SecretStr(SECRET)
    assert (settings.sslmode, settings.sslrootcert) == ("verify-full", "ca.pem")


def test_the_structs_for_postgres_say_all_that_the_settings_do() -> None:
    settings = load(
        name="shop",
        url=f"postgresql://me:{SECRET}@a:6432,b/shop?sslmode=verify-full&gssencmode=disable",
        sslrootcert="ca.pem",
        sslcert="me.pem",
        sslkey="me.key",
        connect_timeout=3,
        publication=["events", "more"],
        subscriptions=["users", "sales.orders"],
        durable_slot=True,
        failover=True,
    )

    assert settings.connection_settings() == ConnectionSettings(
        hosts=(("a", 6432), ("b", 5432)),
        database="shop",
        user="me",
        password=SECRET,
        application_name="walex shop",
        sslmode="verify-full",
        sslrootcert="ca.pem",
        sslcert="me.pem",
        sslkey="me.key",
        connect_timeout=3,
        libpq={"gssencmode": "disable"},
        hidden=(f"postgresql://me:{SECRET}@a:6432,b/shop?sslmode=verify-full&gssencmode=disable",),
    )
    assert settings.slot_settings() == SlotSettings(
        connection=settings.connection_settings(),
        name="shop_walex",
        publications=("events", "more"),
        durable=True,
        failover=True,
        tables=(("public", "users"), ("sales", "orders")),
    )
    assert changed(settings, "add", "subscriptions", "*").slot_settings().tables == ()
    assert SECRET not in repr(settings.slot_settings())


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("postgres://db/shop", {"hostname": "db", "database": "shop"}),
        ("postgresql:///shop", {"database": "shop"}),
        ("postgresql://m%40e:p%2Fa%3Fs%23s%25@db/sh%20op", {
            "hostname": "db", "username": "m@e", "password": "p/a?s#s%", "database": "sh op",
        }),
        ("postgresql://me:a@b@db/shop", {
            "hostname": "db", "username": "me", "password": "a@b", "database": "shop",
        }),
        ("postgresql://[::1]:6432/shop", {"hostname": "::1", "port": 6432, "database": "shop"}),
        ("postgresql://%2FTmp%2FPg/shop", {"hostname": "/Tmp/Pg", "database": "shop"}),
        ("postgresql://me@Db1:6432,[::1]:6433,db3/shop", {
            "hostname": "Db1,::1,db3", "port": "6432,6433,5432", "username": "me", "database": "shop",
        }),
        ("postgresql://db1,db2/shop", {"hostname": "db1,db2", "database": "shop"}),
        ("postgresql:///shop?host=/Tmp/Pg&port=6432&user=me&password=a+b", {
            "hostname": "/Tmp/Pg", "port": "6432", "username": "me", "password": "a+b", "database": "shop",
        }),
        ("postgresql://other:1/shop?host=db&port=6432", {
            "hostname": "db", "port": "6432", "database": "shop",
        }),
    ],
)  # fmt: skip
def test_a_url_is_read_as_libpq_reads_it(url: str, parts: dict[str, object]) -> None:
    assert parse_url(url) == parts


def test_a_single_part_wins_over_the_url_of_the_same_source() -> None:
    settings = load(url=f"postgresql://me:{SECRET}@db/shop", hostname="other", database="store")

    assert settings.address() == "me@other:5432/store"


def test_a_url_wins_over_the_single_parts_of_later_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALEX_HOSTNAME", "environment")
    monkeypatch.setenv("WALEX_PASSWORD", SECRET)

    settings = load(database=None, url="postgresql://me@keyword/shop")

    assert settings.address() == "me@keyword:5432/shop"
    assert settings.password == SecretStr(SECRET), "what the url does not say may come from elsewhere"


def test_a_single_part_wins_over_the_url_of_a_later_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALEX_URL", "postgresql://me@environment:6432/shop")

    assert load(database=None, hostname="keyword").address() == "me@keyword:6432/shop"


# What is refused (promise 8).


def test_one_error_names_all_that_is_missing_or_wrong() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"port": "x", "sslmode": "maybe", "slot_name": "No", "subscriptions": [""]}, {})

    text = str(caught.value)
    for setting in ("name", "database", "publication", "port", "sslmode", "slot_name", "subscriptions"):
        assert f"\n  {setting}: " in text
    assert "[keyword database=, WALEX_DATABASE, or app.conf.walex_database]" in text
    assert "hostname" not in text


@pytest.mark.parametrize(
    ("keywords", "complaint"),
    [
        ({"name": "..."}, "no letter or digit"),
        ({"name": "x" * 60}, "slot_name="),
        ({"slot_name": "x" * 64}, "63 at most"),
        ({"slot_name": "my-slot"}, "lower-case letters"),
        ({"publication": []}, "at least one"),
        ({"publication": ["é" * 32]}, "1 to 63 bytes"),
        ({"subscriptions": [42]}, "42 names no table"),
        ({"subscriptions": "[1"}, "subscriptions: "),
        ({"subscriptions": ["sales."]}, "names no table"),
        ({"port": 0}, "port: "),
        ({"port": 65536}, "port: "),
        ({"port": "5432,x"}, "port: 'x' is no port"),
        ({"hostname": "a,b", "port": "5432,5433,5434"}, "port: 3 ports for 2 hosts"),
        ({"failover": True}, "failover: .* set durable_slot=True"),
        ({"message_middleware": "no.such:thing"}, "message_middleware: "),
        ({"publish_timeout": 0}, "publish_timeout: "),
        ({"url": 42}, "url: "),
        ({"url": "mysql://db/shop"}, "must begin with postgresql://"),
        ({"url": SecretStr("mysql://db/shop")}, "must begin with postgresql://"),
        ({"url": "postgresql://db/shop/users"}, "one database name"),
        ({"url": "postgresql://db/shop?gssapi=1"}, "unknown option gssapi"),
        ({"url": "postgresql://[db/shop"}, "not a URL"),
    ],
)
def test_a_wrong_value_is_an_error_that_says_so(keywords: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint.replace("[", r"\[")):
        load(**keywords)


def test_a_wrong_url_is_one_complaint() -> None:
    """Not that the database is missing besides."""
    with pytest.raises(ConfigurationError) as caught:
        load(database=None, url="postgresql://db:x/shop")

    assert str(caught.value).count("\n") == 1


def test_a_name_too_long_for_a_slot_will_do_with_another_slot_name() -> None:
    assert load(name="x" * 80, slot_name="short").slot == "short"


# Secrets (promise 9).


def test_no_repr_has_the_password() -> None:
    settings = load(url=f"postgresql://me:{SECRET}@db/shop")

    assert SECRET not in repr(settings) + str(settings) + repr(settings.model_dump()) + settings.address()
    assert SECRET in settings.secrets()


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@db:port/shop",
        f"postgresql://me:{SECRET}@db/shop?unknown=1",
        f"mysql://me:{SECRET}@db/shop",
        f"me:{SECRET}@db/shop",
        f"postgresql://me:{SECRET}@[db/shop",
        f"postgresql://me:{SECRET}@db/shop/x",
        f"postgresql://me:1/{SECRET}@db/shop",
        f"postgresql://me:1#{SECRET}@db/shop",
        f"postgresql://me:1?{SECRET}=1@db/shop",
        f"postgresql://me:/{SECRET}@db/shop",
        f"postgresql://me:{SECRET}?x=y@db/shop",
        f"postgresql://me:{SECRET}#@db/shop",
        f"postgresql://me:{SECRET}/@db",
        f"postgresql://db/shop?password={SECRET}&nope=1",
        f"postgresql://db/shop?sslmode=1&password={SECRET}",
    ],
)
def test_no_error_has_the_password(url: str) -> None:
    """Also where an unescaped / ? or # in it makes its rest pass for something else."""
    attempts: list[Callable[[], object]] = [
        lambda: load(url=url),
        lambda: load(url=SecretStr(url)),
        lambda: load({"walex_url": url}),
        lambda: changed(load(), "replace", "url", url),
    ]
    for attempt in attempts:
        with pytest.raises(ConfigurationError) as caught:
            attempt()
        assert SECRET not in told(caught.value)


@given(st.text(alphabet="/?#@:%[]&=+ é", max_size=6))
def test_no_password_gets_out_whatever_is_around_it(noise: str) -> None:
    for password in (noise + SECRET, SECRET + noise, noise + SECRET + noise):
        shown = []
        try:
            settings = load(url=f"postgresql://me:{password}@db/shop")
            shown += [settings.address(), repr(settings)]
        except ConfigurationError as error:
            shown.append(told(error))
        assert SECRET not in "".join(shown)


def test_a_wrong_password_setting_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(password=[SECRET])

    assert SECRET not in told(caught.value)


# Names.


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("todos", "todos_walex"),
        ("MyCompany.Shop", "shop_walex"),
        ("my-shop 2", "my_shop_2_walex"),
        ("my__app", "my__app_walex"),
        ("Łódź", "__d__walex"),
    ],
)
def test_the_slot_is_named_as_walex_names_it(name: str, slot: str) -> None:
    assert slot_name_for(name) == slot
    assert load(name=name).slot == slot


def test_a_model_class_is_a_subscription() -> None:
    django = type("User", (), {"_meta": SimpleNamespace(db_table="auth_user")})
    sqlalchemy = type("Order", (), {"__table__": SimpleNamespace(schema="sales", name="orders")})

    settings = load(subscriptions=[django, sqlalchemy, "sales.orders"])

    assert settings.subscriptions == (Table("public", "auth_user"), Table("sales", "orders"))
    assert settings.subscribes_to(Table("sales", "orders"))
    assert not settings.subscribes_to(Table("public", "orders"))


def test_all_tables() -> None:
    for everything in ("*", ["*"], "all", ["users", "*"]):
        assert load(subscriptions=everything).subscribes_to(Table("any", "table"))


def test_a_worker_needs_only_what_tells_where_handlers_are() -> None:
    modules = load_settings({"name": "shop"}, {"walex_modules": ["shop.handlers"]}, EventModules)

    assert (modules.name, modules.modules) == ("shop", ("shop.handlers",))


# Changes.


def test_add_and_remove_keep_order_and_say_nothing_twice() -> None:
    settings = load(subscriptions=["users"])

    settings = changed(settings, "add", "subscriptions", ["sales.orders", "users"])
    settings = changed(settings, "add", "subscriptions", "todos")
    assert list(map(str, settings.subscriptions)) == ["users", "sales.orders", "todos"]

    settings = changed(settings, "remove", "subscriptions", ["sales:orders", "never"])
    assert list(map(str, settings.subscriptions)) == ["users", "todos"]


def test_modules_and_publications_can_be_added_and_removed() -> None:
    settings = changed(load(), "add", "publication", "more")
    assert settings.publication == ("events", "more")
    assert changed(settings, "remove", "publication", ["events"]).publication == ("more",)
    assert changed(settings, "add", "modules", ["a.b"]).modules == ("a.b",)


def test_replacing_a_part_of_the_connection_keeps_the_others() -> None:
    before = load(url=f"postgresql://me:{SECRET}@db:6432/shop?sslmode=require")

    after = changed(before, "replace", "password", "new")

    assert after.password == SecretStr("new")
    assert (after.address(), after.sslmode) == (before.address(), "require")
    assert SECRET not in after.secrets()


def test_replacing_the_url_keeps_nothing_of_the_old_one() -> None:
    before = load(url=f"postgresql://me:{SECRET}@db:6432/shop?sslmode=require&sslkey=me.key")

    after = changed(before, "replace", "url", "postgresql://other/store")

    assert after.address() == "other:5432/store"
    assert (after.password, after.sslmode, after.sslkey) == (None, None, None)


def test_a_change_does_not_read_the_sources_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load()
    monkeypatch.setenv("WALEX_PASSWORD", "environment")
    monkeypatch.setenv("WALEX_URL", "postgresql://environment/x?sslmode=require")

    after = changed(before, "add", "subscriptions", "users")

    assert (after.password, after.url, after.sslmode, after.address()) == (None, None, None, before.address())


@pytest.mark.parametrize(
    ("action", "key"),
    [
        ("add", "password"),
        ("remove", "hostname"),
        ("add", "no_such_setting"),
        ("replace", "name"),
        ("replace", "publish_timeout"),
        ("replace", "no_such_setting"),
    ],
)
def test_a_key_that_may_not_change_so_is_refused(action: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{action}_config can't change '{key}'"):
        changed(load(), action, key, "x")


@pytest.mark.parametrize(
    ("action", "key", "value"),
    [
        ("remove", "publication", "events"),
        ("replace", "port", "none"),
        ("replace", "url", "nonsense"),
        ("replace", "database", ""),
        ("replace", "database", None),
        ("replace", "slot_name", "No"),
        ("add", "subscriptions", [42]),
        ("replace", "message_middleware", "no.such:thing"),
    ],
)
def test_a_wrong_new_value_is_refused(action: str, key: str, value: object) -> None:
    with pytest.raises(ConfigurationError):
        changed(load(), action, key, value)


def test_further_parameters_of_libpq_come_with_the_url() -> None:
    """As the urls of managed services have them."""
    url = "postgresql://db/shop?sslmode=require&channel_binding=require&target_session_attrs=read-write"
    settings = load_settings({"name": "shop", "url": url, "publication": "events"}, {})
    assert settings.sslmode == "require"
    assert settings.libpq == {"channel_binding": "require", "target_session_attrs": "read-write"}


@pytest.mark.parametrize(
    "parameter", ["client_encoding", "options", "replication", "sslpassword", "password"]
)
def test_parameters_that_the_producer_depends_on_are_refused(parameter: str) -> None:
    with pytest.raises(ConfigurationError, match=parameter) as caught:
        load_settings(
            {"name": "x", "url": "postgresql://db/x", "publication": "e", "libpq": {parameter: "hunter2"}}, {}
        )
    assert "hunter2" not in str(caught.value)
