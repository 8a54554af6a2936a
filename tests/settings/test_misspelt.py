"""Names that are almost those of settings (promise 8)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from celery import Celery

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
