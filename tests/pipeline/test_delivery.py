"""What is done when the broker has confirmed it, and when that is known (promise 1)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests.broker.support import (
    ARGSREPR,
    VALUE,
    Proxy,
    make_app,
    new_id,
    publishing,
    take_all,
    task_ids,
)
from tests.support import wait_until
from walex_celery import Lsn
from walex_celery.broker import TaskTarget
from walex_celery.errors import BrokerUnavailable, MessageTooLarge
from walex_celery.pipeline.delivery import IN_FLIGHT, Delivery
from walex_celery.settings.model import load_settings
from walex_celery.telemetry.activity import Activity, Doing
from walex_celery.telemetry.statistics import Statistics


def _unexpected(error: MessageTooLarge, text: bytes, again: Callable[[], None]) -> bool:
    raise AssertionError("no message is too large here") from error


class Delivering:
    """A delivery through a proxy to a real broker, and tasks to add to it."""

    def __init__(self, url: str, proxy: Proxy) -> None:
        self.url, self.proxy = url, proxy
        port = urlsplit(url).port or 0
        self.app = make_app(url.replace(f":{port}", f":{proxy.port}"))
        self._publishing = publishing(self.app, timeout_seconds=1.0)
        self.publisher = self._publishing.__enter__()
        self.function: TaskTarget = self.publisher.prepare("shop.send")
        self.publisher.declare()
        self.statistics = Statistics()
        self.stopping, self.activity = threading.Event(), Activity()
        given = {"name": "shop", "database": "shop", "publication": "events", "reconnect_timeout": 20}
        settings = load_settings(given, {})
        self.delivery = Delivery(
            self.publisher,
            lambda: settings,
            self.statistics,
            self.activity,
            self.stopping,
            position=lambda: None,
            set_aside=_unexpected,
        )
        self.ids: list[str] = []

    def add(self) -> None:
        self.ids.append(new_id())
        self.publisher.add(self.function, self.ids[-1], VALUE, ARGSREPR)
        self.statistics.tasks += 1

    def close(self) -> None:
        self.proxy.flow()
        self._publishing.__exit__(None, None, None)


@pytest.fixture
def delivering(redis_url: str) -> Iterator[Delivering]:
    with Proxy(urlsplit(redis_url).port or 0) as proxy:
        delivering = Delivering(redis_url, proxy)
        yield delivering
        delivering.close()


def test_what_is_settled_is_confirmed_whatever_was_on_its_way(delivering: Delivering) -> None:
    delivery = delivering.delivery
    for number in range(1, IN_FLIGHT + 1):
        delivering.add()
        delivery.flush(Lsn(number))
    assert delivery.batches_in_flight == IN_FLIGHT

    delivering.add()
    delivery.settle(Lsn(IN_FLIGHT + 1))

    assert (delivery.batches_in_flight, delivery.has_unconfirmed) == (0, False)
    assert delivery.confirmed_lsn == IN_FLIGHT + 1
    assert task_ids(take_all(delivering.url)) == delivering.ids


def test_nothing_is_done_before_it_is_confirmed(delivering: Delivering) -> None:
    """Nor when a later try fails too, because the producer stops."""
    delivery = delivering.delivery
    delivering.add()
    delivery.settle(Lsn(1))
    delivering.proxy.stall()
    delivering.stopping.set()
    for number in (2, 3):
        delivering.add()
        with pytest.raises(BrokerUnavailable):
            delivery.settle(Lsn(number))
        assert (delivery.confirmed_lsn, delivery.has_unconfirmed) == (1, True)

    delivering.proxy.flow()
    delivery.settle(Lsn(3))

    assert (delivery.confirmed_lsn, delivery.has_unconfirmed) == (3, False)


def test_what_is_not_confirmed_is_sent_again_until_it_is(delivering: Delivering) -> None:
    """The broker took it, as it seemed, and said nothing."""
    delivery = delivering.delivery
    delivering.add()
    delivering.proxy.stall()
    delivery.flush(Lsn(1))

    def flow_when_it_is_noticed() -> None:
        wait_until(lambda: delivering.activity.now.doing is Doing.BROKER_DOWN, 20)
        delivering.proxy.cut()
        delivering.proxy.flow()

    thread = threading.Thread(target=flow_when_it_is_noticed)
    thread.start()
    delivery.settle(Lsn(1))
    thread.join()

    assert (delivery.confirmed_lsn, delivery.has_unconfirmed) == (1, False)
    assert set(task_ids(take_all(delivering.url))) == set(delivering.ids)


def test_what_is_forgotten_is_not_taken_for_done(delivering: Delivering) -> None:
    delivery = delivering.delivery
    delivering.add()
    delivery.flush(Lsn(1))
    delivery.forget()
    assert (delivery.batches_in_flight, delivery.has_unconfirmed) == (0, False)

    delivery.settle(Lsn(0))

    assert delivery.confirmed_lsn == 0


def test_what_is_done_stays_done(delivering: Delivering) -> None:
    """A middleware may hand on again what was processed before."""
    delivery = delivering.delivery
    for number in (5, 3):
        delivering.add()
        delivery.settle(Lsn(number))
        assert delivery.confirmed_lsn == 5
