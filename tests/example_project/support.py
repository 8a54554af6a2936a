"""The shop under test, and real events of its tables."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support import Database, wait_until
from walex_celery import Event
from walex_celery.operations.tail import tail
from walex_celery.settings.model import load_settings

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = ROOT / "example_project"


class Shop:
    """A shop of a test's own."""

    def __init__(self, database: Database, cache_url: str, outbox: Path) -> None:
        self.database = database
        self.cache_url = cache_url
        self.outbox = outbox
        self._following: list[threading.Event] = []

    def environment(self) -> dict[str, str]:
        """What leads the shop to its servers."""
        return {
            "WALEX_URL": self.database.url,
            "SHOP_DATABASE_URL": self.database.url,
            "SHOP_CACHE_URL": self.cache_url,
            "SHOP_OUTBOX": str(self.outbox),
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one of the project's programs in its folder, and wait for its end."""
        return subprocess.run(
            [sys.executable, *command],
            cwd=PROJECT,
            env={**os.environ, **self.environment(), "PYTHONPATH": f"{PROJECT}:{ROOT}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def following(self) -> Iterator[list[Event]]:
        """The events of the shop's tables from now on, in a list that grows."""
        settings = load_settings(
            {"name": "shop", "url": self.database.url, "publication": "events", "subscriptions": ["*"]}, {}
        )
        events: list[Event] = []
        ready, stopping = threading.Event(), threading.Event()

        def follow() -> None:
            # As they reach a worker: through their JSON.
            for event in tail(settings, [], stopping, started=ready.set):
                events.append(Event.from_json(event.to_json()))

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            wait_until(ready.is_set, message="tail has started")
            yield events
        finally:
            stopping.set()
            thread.join(10)

    def events_of(self, *statements: str) -> list[Event]:
        """The events that SQL statements cause, which end with a change."""
        with self.following() as events:
            for statement in statements:
                self.database.execute(statement)
            self.database.execute("INSERT INTO users (id, name, email) VALUES (-1, 'last', '')")
            wait_until(lambda: events and events[-1].key == {"id": -1})
        return events[:-1]

    def close(self) -> None:
        """Let the shop's own connection go."""
        from shop.database import _connections

        connection = _connections.pop(self.database.url, None)
        if connection is not None:
            connection.close()
