"""The ledger of what a middleware was given and what came through (promise 1), and who processes for whom."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests import messages as m
from walex_celery import DecodeError, Lsn, MiddlewareError, StreamMessage
from walex_celery.postgres.pgoutput import completed_lsn
from walex_celery.sources.ledger import Ledger
from walex_celery.sources.middleware import (
    MiddlewareStream,
    process_message_async,
    process_message_sync,
    register,
    unregister,
)


def of(*payloads: bytes) -> list[StreamMessage]:
    return [StreamMessage(payload, 0) for payload in payloads]


def transaction(end_lsn: int, rows: int = 1) -> list[StreamMessage]:
    return of(m.begin(), *[m.insert(1, b"1")] * rows, m.commit(end_lsn=end_lsn))


def hand(ledger: Ledger, messages: list[StreamMessage]) -> None:
    for message in messages:
        ledger.hand(message)


def process(ledger: Ledger, messages: list[StreamMessage]) -> None:
    for message in messages:
        ledger.process(message)


@pytest.fixture
def ledger() -> Ledger:
    """With the transactions that end at 100 and at 200 handed to the middleware."""
    ledger = Ledger()
    hand(ledger, transaction(100))
    hand(ledger, transaction(200, rows=3))
    return ledger


def test_a_transaction_is_safe_once_processed_and_confirmed(ledger: Ledger) -> None:
    process(ledger, transaction(100))
    assert ledger.safe_lsn == 0, "the broker has not confirmed it"

    ledger.confirm(100)
    assert (ledger.safe_lsn, ledger.outstanding) == (100, True)

    process(ledger, transaction(200, rows=3))
    ledger.confirm(200)
    assert (ledger.safe_lsn, ledger.outstanding) == (200, False)


def test_confirming_more_than_came_through_is_no_harm(ledger: Ledger) -> None:
    process(ledger, transaction(100))
    ledger.confirm(10_000)

    assert ledger.safe_lsn == 100


def test_what_is_stored_is_safe_in_its_turn(ledger: Ledger) -> None:
    """Never past one before it that is not done."""
    ledger.store(transaction(200)[-1])
    assert ledger.safe_lsn == 0

    process(ledger, transaction(100))
    ledger.confirm(100)
    assert ledger.safe_lsn == 200


def test_what_was_stored_may_come_through_later(ledger: Ledger) -> None:
    for end_lsn in (100, 200):
        ledger.store(transaction(end_lsn)[-1])
    assert (ledger.safe_lsn, ledger.outstanding) == (200, False)

    process(ledger, transaction(100))
    ledger.confirm(200)

    assert ledger.safe_lsn == 200


def test_storing_a_part_of_a_transaction_is_not_storing_it(ledger: Ledger) -> None:
    for message in transaction(100)[:-1]:
        ledger.store(message)

    assert ledger.safe_lsn == 0


def test_a_lost_message_is_found_out(ledger: Ledger) -> None:
    process(ledger, transaction(100))
    process(ledger, transaction(200, rows=2))

    with pytest.raises(MiddlewareError, match=r"lost or reordered messages.* 0/C8, 5 messages"):
        ledger.confirm(200)
    assert ledger.safe_lsn == 100, "nothing after it is acknowledged"


def test_a_lost_transaction_is_found_out(ledger: Ledger) -> None:
    process(ledger, transaction(200, rows=3))

    with pytest.raises(MiddlewareError, match="ending at 0/64, 3 messages"):
        ledger.confirm(200)


def test_a_transaction_that_began_again_is_counted_again() -> None:
    """The connection broke in its middle; its first half came through before or after the break."""
    ledger = Ledger()
    process(ledger, transaction(100, rows=9)[:5])
    hand(ledger, transaction(100, rows=9))
    process(ledger, transaction(100, rows=9))

    ledger.confirm(100)

    assert ledger.safe_lsn == 100


def test_a_message_outside_of_transactions_stands_for_itself() -> None:
    ledger = Ledger()
    alone = of(m.message("audit", b"", transactional=False, lsn=150))
    hand(ledger, transaction(100) + alone)
    process(ledger, transaction(100) + alone)

    ledger.confirm(100)
    assert ledger.safe_lsn == 100
    ledger.confirm(150)
    assert ledger.safe_lsn == 150


def test_what_is_safe_is_acknowledged_neither_less_nor_more(ledger: Ledger) -> None:
    """What the middleware stored may not have come through; what came through may be of an earlier copy."""
    acknowledged: list[tuple[int, bool]] = []
    slot: Any = SimpleNamespace(acknowledge=lambda lsn, *, now: acknowledged.append((lsn, now)))
    nothing: Any = None
    stream = MiddlewareStream(slot, ledger, nothing)
    stream.acknowledge(Lsn(10_000), now=False)
    ledger.store(transaction(100)[-1])
    stream.acknowledge(Lsn(0), now=True)
    process(ledger, transaction(200, rows=3))
    stream.acknowledge(Lsn(10_000), now=True)

    assert acknowledged == [(0, False), (100, True), (200, True)]


@pytest.mark.parametrize(
    ("payload", "lsn"),
    [
        (m.begin(), None),
        (m.insert(1, b"1"), None),
        (m.commit(end_lsn=100), 100),
        (m.message("audit", b""), None),
        (m.message("audit", b"", transactional=False, lsn=150), 150),
        (b"", None),
    ],
)
def test_what_a_message_completes(payload: bytes, lsn: int | None) -> None:
    assert completed_lsn(payload) == lsn


@pytest.mark.parametrize("payload", [b"C", m.commit()[:-1], b"M", b"M\x00", b"M\x00" + b"\0" * 8])
def test_a_cut_message_is_a_decode_error(payload: bytes) -> None:
    """Promise 10: the ledger looks at it before anybody else."""
    with pytest.raises(DecodeError):
        completed_lsn(payload)


class Processor:
    """Notes what it is to process."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, StreamMessage]] = []

    def process_async(self, message: StreamMessage) -> None:
        self.seen.append(("async", message))

    def process_sync(self, message: StreamMessage) -> None:
        self.seen.append(("sync", message))


def test_messages_are_handed_on_by_the_instance_s_name() -> None:
    shop, store = Processor(), Processor()
    (message,) = of(m.begin())
    register("shop", shop)
    register("store", store)
    try:
        process_message_async(message, "shop")
        process_message_sync(message, "store")
        with pytest.raises(MiddlewareError, match="'shop' runs in this process already"):
            register("shop", store)
    finally:
        unregister("shop")
        unregister("store")

    assert (shop.seen, store.seen) == ([("async", message)], [("sync", message)])
    with pytest.raises(MiddlewareError, match=r"no producer named 'shop' runs .*running: none"):
        process_message_sync(message, "shop")


def test_lsns_are_told_as_postgres_writes_them(ledger: Ledger) -> None:
    process(ledger, transaction(300))
    with pytest.raises(MiddlewareError, match=str(Lsn(300))):
        ledger.confirm(300)
