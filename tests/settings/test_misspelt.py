"""Names that are almost those of settings (promise 8)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from celery import Celery
from django.conf import LazySettings  # type: ignore[import-untyped]

from tests.settings.support import LEAST, load
from walex_celery import ConfigurationError, WalEx
from walex_celery.settings.model import EventModules, load_settings


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "walex_celery.settings"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("WALEX_DURABLE_SLOTS", "WALEX_DURABLE_SLOT"),
        ("walex_durable_slots", "walex_durable_slot"),
        ("WALEX_SLOTNAME", "WALEX_SLOT_NAME"),
        ("WALEX_SUBSCRIPTION", "WALEX_SUBSCRIPTIONS"),
        ("WALEX_PASSWROD", "WALEX_PASSWORD"),
        ("WALEX_HOST", "WALEX_HOSTNAME"),
        ("WALEX_DATABASE_URL", "WALEX_URL"),
    ],
)
def test_a_misspelt_variable_is_reported(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, "hunter2")
    load()

    assert warnings_of(caplog) == [
        f"{name} in the environment is not a setting, and is ignored: did you mean {meant}?"
    ]


def test_in_dotenv_and_in_app_conf_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".env").write_text("WALEX_ON_ERRORS=retry\nOTHER_ON_ERRORS=1\n")
    app = Celery("shop")
    app.conf.walex_publications = "events"
    assert WalEx(app, **LEAST).settings.publication == ("events",)

    assert warnings_of(caplog) == [
        "WALEX_ON_ERRORS in .env is not a setting, and is ignored: did you mean WALEX_ON_ERROR?",
        "walex_publications in app.conf is not a setting, and is ignored: did you mean walex_publication?",
    ]


def test_in_dotenv_as_shells_and_people_write_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".env").write_text("export WALEX_DURABLE_SLOTS=true\nwalex_slotname = mine\n#WALEX_PORTS=1\n")
    load()

    assert warnings_of(caplog) == [
        "WALEX_DURABLE_SLOTS in .env is not a setting, and is ignored: did you mean WALEX_DURABLE_SLOT?",
        "walex_slotname in .env is not a setting, and is ignored: did you mean walex_slot_name?",
    ]


def django_settings(**settings: object) -> LazySettings:
    """What ``django.conf.settings`` is, of a project of the test's own."""
    made = LazySettings()
    made.configure(**settings)
    return made


def in_namespace(source: object) -> Celery:
    """As Celery's manual has it for Django."""
    app = Celery("shop", set_as_current=False)
    app.config_from_object(source, namespace="CELERY")
    return app


def test_in_django_s_settings(caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt name; a name without the namespace, which Celery does not hand on."""
    settings = django_settings(
        CELERY_WALEX_SLOT_NAME="mine",
        CELERY_WALEX_DURABLE_SLOTS=True,
        WALEX_FAILOVER=True,
        WALEX_SUBSCRIPTION=["users"],
        WALEX_ADMINS=["ada"],
    )
    assert WalEx(in_namespace(settings), **LEAST).settings.slot == "mine"

    place = "in app.conf is not a setting, and is ignored: did you mean CELERY_WALEX_"
    assert warnings_of(caplog) == [
        f"CELERY_WALEX_DURABLE_SLOTS {place}DURABLE_SLOT?",
        f"WALEX_FAILOVER {place}FAILOVER?",
        f"WALEX_SUBSCRIPTION {place}SUBSCRIPTIONS?",
    ]


@pytest.mark.parametrize("namespace", ["CELERY", "celery_", "SHOP"])
def test_in_a_namespace_of_any_name(namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    prefix = namespace.rstrip("_") + "_"
    read = "WALEX_SLOT_NAME" if prefix.isupper() else "walex_slot_name"
    misspelt = "WALEX_SLOTNAME" if prefix.isupper() else "walex_slotname"
    app = Celery("shop", set_as_current=False)
    app.config_from_object({prefix + read: "mine", prefix + misspelt: "x"}, namespace=namespace)
    assert WalEx(app, **LEAST).settings.slot == "mine"

    assert warnings_of(caplog) == [
        f"{prefix}{misspelt} in app.conf is not a setting, and is ignored: did you mean {prefix}{read}?"
    ]


def test_in_capitals_in_app_conf(caplog: pytest.LogCaptureFixture) -> None:
    """Right, but for the case: Celery's names are lower-case."""
    app = Celery("shop", set_as_current=False)
    app.conf.update(WALEX_SLOT_NAME="mine", walex_Failover=True)
    assert WalEx(app, **LEAST).settings.slot == "shop_walex"

    assert warnings_of(caplog) == [
        "WALEX_SLOT_NAME in app.conf is not a setting, and is ignored: did you mean walex_slot_name?",
        "walex_Failover in app.conf is not a setting, and is ignored: did you mean walex_failover?",
    ]


def test_as_the_documentation_has_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    documented = page.partition("```\n")[2].partition("```")[0].splitlines()
    monkeypatch.setenv("WALEX_DURABLE_SLOTS", "1")
    walex = WalEx(
        in_namespace(django_settings(WALEX_URL="postgresql://localhost/shop")), publication="events"
    )
    with pytest.raises(ConfigurationError, match="database: missing"):
        _ = walex.settings

    assert warnings_of(caplog) == documented


@pytest.mark.parametrize("handed_on", ["keyword", "environment", ".env", "settings"])
def test_what_the_user_hands_on_is_not_reported(
    handed_on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A project's own setting, out of which it makes ours, or which it makes of our variable."""
    url = "postgresql://localhost/shop"
    own = {"WALEX_URL": url, "WALEX_HOSTNAMES": "db", "WALEX_PASSWORD": "x"}
    keywords = {"name": "shop", "publication": "events"}
    if handed_on == "settings":
        own["CELERY_WALEX_URL"] = url
    elif handed_on == "keyword":
        keywords["url"] = url
    elif handed_on == "environment":
        monkeypatch.setenv("WALEX_URL", url)
    else:
        (tmp_path / ".env").write_text(f"WALEX_URL={url}\n")
    assert WalEx(in_namespace(django_settings(**own)), **keywords).settings.database == "shop"

    assert warnings_of(caplog) == []


def test_one_that_is_missing_for_that_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WALEX_PUBLICATIONS", "events")
    with pytest.raises(ConfigurationError, match="publication: missing"):
        load(publication=None)

    assert warnings_of(caplog) == [
        "WALEX_PUBLICATIONS in the environment is not a setting, and is ignored: did you mean WALEX_PUBLICATION?"
    ]


def test_what_is_right_or_is_no_setting_is_not_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WALEX_DURABLE_SLOT", "1")
    monkeypatch.setenv("walex_slot_name", "shop")
    for name in ("FAILPOINTS", "NATIVE", "ADMIN_URL", "TEST_POSTGRES", "FUZZ_SEED"):
        monkeypatch.setenv(f"WALEX_{name}", "")
    # What Kubernetes sets for a service of that name.
    for name in (
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_METRICS",
        "PORT_9187_TCP",
        "PORT_9187_TCP_ADDR",
    ):
        monkeypatch.setenv(f"WALEX_{name}", "10.0.0.1")
    load()

    assert warnings_of(caplog) == []


def test_a_worker_does_not_look(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("WALEX_DURABLE_SLOTS", "1")
    with caplog.at_level(logging.DEBUG):
        load_settings({"name": "shop"}, {}, EventModules)

    assert warnings_of(caplog) == []
