"""How settings change while the producer runs."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from tests.settings.support import SECRET, load
from walex_celery import ConfigurationError
from walex_celery.settings.changes import changed


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
