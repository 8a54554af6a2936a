"""What a session says of itself when it reads from its stream (promises 1 and 5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import pytest

from tests import messages as m
from tests.broker.support import Proxy
from tests.pipeline.test_delivery import Delivering
from walex_celery import Lsn
from walex_celery.pipeline.dispatcher import Dispatcher
from walex_celery.pipeline.session import Session
from walex_celery.settings.model import load_settings
from walex_celery.sources.protocol import Slice

SETTINGS = load_settings({"name": "shop", "database": "shop", "publication": "events"}, {})


class Asked(NamedTuple):
    """What a stream is told with a read."""

    pending: bool
    idle: bool
    waits: bool


class Recording:
    """A stream that brings nothing."""

    is_restartable = False

    def read(self, *, pending: bool, idle: bool, timeout: float, to_boundary: bool) -> Slice:
        self.asked = Asked(pending, idle, timeout > 0)
        return Slice([], 0, False)


class Reading:
    """A session, and what delivers its tasks."""

    def __init__(self, delivering: Delivering) -> None:
        self.delivering = delivering
        self._stream = cast(Any, Recording())
        dispatcher = Dispatcher(delivering.app, delivering.publisher, "shop")
        statistics = delivering.statistics
        self.session = Session(self._stream, SETTINGS, [], dispatcher, delivering.delivery, statistics, None)

    def asked(self) -> Asked:
        self.session.read(1.0, to_boundary=False)
        asked: Asked = self._stream.asked
        return asked


@pytest.fixture
def reading(redis_url: str) -> Iterator[Reading]:
    with Proxy(urlsplit(redis_url).port or 0) as proxy:
        delivering = Delivering(redis_url, proxy)
        yield Reading(delivering)
        delivering.close()


def test_it_is_idle_when_nothing_is_left_to_do(reading: Reading) -> None:
    assert reading.asked() == Asked(pending=False, idle=True, waits=True)


def test_it_is_not_idle_inside_a_transaction(reading: Reading) -> None:
    reading.session.process(m.begin())
    assert reading.asked() == Asked(pending=False, idle=False, waits=True)

    reading.session.process(m.commit(end_lsn=100))
    assert reading.asked() == Asked(pending=True, idle=False, waits=False)

    reading.session.settle()
    assert reading.asked() == Asked(pending=False, idle=True, waits=True)


def test_it_is_not_idle_while_a_task_is_unconfirmed_of_whatever_transaction(reading: Reading) -> None:
    """One that came again, for example, after it was done."""
    reading.delivering.add()
    assert reading.asked() == Asked(pending=False, idle=False, waits=False)

    reading.delivering.delivery.flush(Lsn(0))
    assert reading.asked() == Asked(pending=False, idle=False, waits=False)

    reading.session.settle()
    assert reading.asked() == Asked(pending=False, idle=True, waits=True)
