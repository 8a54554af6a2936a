"""Fixtures of the WalEx chapters: WalEx's own tables, and an application without a trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from tests.support import Database
from tests.support.producers import make_app
from tests.support.project import Project
from tests.walex.support import SCHEMA


@pytest.fixture
def todos(database: Database) -> Database:
    """A database with the tables of WalEx's README, published as ``events``."""
    database.execute(SCHEMA)
    return database


@pytest.fixture
def app_on_each(broker_url: str) -> Iterator[Celery]:
    """A Celery application on Valkey, then one on RabbitMQ."""
    app = make_app(broker_url)
    yield app
    app.close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A folder for a user's package ``my_app``, which can be imported from it."""
    monkeypatch.syspath_prepend(tmp_path)
    yield Project(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_app"]:
        del sys.modules[name]
