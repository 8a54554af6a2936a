"""What an earlier producer stored in the broker, and whether it counts (exactly_once_enqueue)."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.broker.support import ARGSREPR, VALUE, make_app, new_id, publishing
from walex_celery import Lsn
from walex_celery.broker import Publisher
from walex_celery.broker.position import Position
from walex_celery.pipeline.enqueued import Enqueued, EnqueuedPosition
from walex_celery.pipeline.takeover import position_key, take_over
from walex_celery.postgres.timeline import Cluster, Switch, Timelines
from walex_celery.settings.model import load_settings

SETTINGS = load_settings({"name": "shop", "database": "shop", "publication": "events"}, {}).slot_settings()
KEY = position_key(42, SETTINGS.name, None)
PLACE = EnqueuedPosition(1, Lsn(500), 3)


class Taking:
    """A publisher that stored a position, and another that takes it over."""

    def __init__(self, first: Publisher, second: Publisher) -> None:
        self._first, self.second = first, second
        #: The landmarks that the stream was told to look for.
        self.expected: list[str] = []

    def store(self, position: EnqueuedPosition) -> None:
        self._first.take_over(KEY)
        self._first.add(self._first.prepare("shop.send"), new_id(), VALUE, ARGSREPR)
        self._first.flush(Position(position.pack(), "what stands there"))
        self._first.confirm()

    def take(self, *, wal_lsn: int = 1000, timelines: Timelines = Timelines(), **stream: Any) -> Enqueued:  # noqa: B008
        """Take it over for a stream whose server has written so far."""
        given = {
            "cluster": Cluster(42, timelines),
            "scope": None,
            "created": False,
            "starts_over": False,
            "acknowledged_lsn": Lsn(0),
            "expect": self.expected.append,
        }
        opened: Any = SimpleNamespace(**(given | stream))
        catalog: Any = SimpleNamespace(wal_lsn=lambda: Lsn(wal_lsn))
        delivery: Any = SimpleNamespace(deliver=lambda step: step())
        return take_over(opened, SETTINGS, catalog, self.second, delivery)


@pytest.fixture
def taking(redis_url: str) -> Iterator[Taking]:
    app = make_app(redis_url)
    with publishing(app, exactly_once=True) as first, publishing(app, exactly_once=True) as second:
        yield Taking(first, second)


def test_where_nothing_is_stored_all_is_new(taking: Taking) -> None:
    assert taking.take().position == (1, 0, 0)
    assert taking.expected == []


@pytest.mark.parametrize("wal_lsn", [500, 1000])
def test_what_is_stored_counts_and_its_landmark_is_looked_for(taking: Taking, wal_lsn: int) -> None:
    """Nothing may have been written after a message outside of transactions: its end is the WAL's."""
    taking.store(PLACE)

    assert taking.take(wal_lsn=wal_lsn).position == PLACE
    assert taking.expected == ["what stands there"]
    assert taking.second.take_over(KEY) == PLACE.pack()


def test_of_the_old_primary_only_what_is_before_the_switch(taking: Taking) -> None:
    """What stood at the position is gone: it is not looked for."""
    taking.store(PLACE)

    taken = taking.take(timelines=Timelines(2, (Switch(1, Lsn(300)),)))

    assert taken.position == (2, 300, 0)
    assert not any(taking.expected)


@pytest.mark.parametrize(
    "stream",
    [
        {"wal_lsn": 499},
        {"created": True},
        {"starts_over": True},
        {"timelines": Timelines(3, (Switch(2, Lsn(300)),))},
    ],
    ids=["ahead of the WAL", "a new slot", "gone back", "another timeline"],
)
def test_what_says_nothing_is_reset(taking: Taking, stream: dict[str, Any]) -> None:
    """Else the publisher would take the next batches for stored, when it connects again."""
    taking.store(PLACE)

    assert taking.take(**stream).position.lsn == 0
    assert taking.expected == []
    assert taking.second.take_over(KEY) is None
