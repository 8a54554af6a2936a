"""Where settings come from: which source wins, and how the parts of a url and single settings mix."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.settings.support import LEAST, SECRET, load
from walex_celery.filters import Table
from walex_celery.settings.model import load_settings


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
        ("numbers", "decimal", "decimal"),
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
