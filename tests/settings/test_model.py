"""Settings: what is right, what is refused and with which words (promises 8 and 9)."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.settings.support import SECRET, load
from walex_celery import ConfigurationError
from walex_celery.filters import Table
from walex_celery.postgres.parameters import ConnectionSettings, SlotSettings
from walex_celery.settings.changes import changed
from walex_celery.settings.model import EventModules, load_settings, slot_name_for


def logged(error: BaseException) -> str:
    """Everything that a log would show of it."""
    return "".join(traceback.format_exception(error)) + repr(error)


def test_the_defaults() -> None:
    settings = load()

    assert (settings.hostname, settings.port, settings.username, settings.password) == (
        "localhost", 5432, None, None
    )  # fmt: skip
    assert (settings.publication, settings.subscriptions, settings.modules) == (("events",), (), ())
    assert (settings.durable_slot, settings.slot, settings.message_middleware) == (False, "shop_walex", None)


# What Postgres gets of them.


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
        ({"port": "5432,x"}, "port: must be a number from 1 to 65535"),
        ({"hostname": "a,b", "port": "5432,5433,5434"}, "port: 3 ports for 2 hosts"),
        ({"failover": True}, "failover: .* set durable_slot=True"),
        ({"numbers": "float"}, r"numbers: .*'auto' or 'decimal' .*WALEX_NUMBERS"),
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
        assert SECRET not in logged(caught.value)


@given(st.text(alphabet="/?#@:%[]&=+ é", max_size=6))
def test_no_password_gets_out_whatever_is_around_it(noise: str) -> None:
    for password in (noise + SECRET, SECRET + noise, noise + SECRET + noise):
        shown = []
        try:
            settings = load(url=f"postgresql://me:{password}@db/shop")
            shown += [settings.address(), repr(settings)]
        except ConfigurationError as error:
            shown.append(logged(error))
        assert SECRET not in "".join(shown)


def test_a_wrong_password_setting_is_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(password=[SECRET])

    assert SECRET not in logged(caught.value)


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


@pytest.mark.parametrize(
    "given", [{"port": SECRET}, {"url": f"postgresql://db/shop?port={SECRET}", "database": None}]
)
def test_a_password_given_as_the_port_is_not_repeated(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="port: must be a number from 1 to 65535") as caught:
        load(**given)
    assert SECRET not in str(caught.value)
