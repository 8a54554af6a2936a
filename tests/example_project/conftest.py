"""Fixtures: the shop on a fresh database, cache and outbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.example_project.support import PROJECT, Shop
from tests.support import Database


@pytest.fixture
def shop(
    database: Database, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    """The shop's schema, and an environment that leads the shop to it."""
    database.execute((PROJECT / "schema.sql").read_text())
    shop = Shop(database, redis_url, tmp_path / "outbox")
    for name, value in shop.environment().items():
        monkeypatch.setenv(name, value)
    yield shop
    shop.close()
