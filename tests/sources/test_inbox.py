"""The queue from a middleware's threads into the producer's."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.support import wait_until
from walex_celery import MiddlewareError, StreamMessage
from walex_celery.sources import inbox
from walex_celery.sources.inbox import Inbox


def message(text: str) -> StreamMessage:
    return StreamMessage(text.encode(), 0)


class Recorder:
    """The producer's side."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.woken = 0
        self.inbox = Inbox(self.wake)

    def wake(self) -> None:
        self.woken += 1

    def drain(self) -> bool:
        return self.inbox.drain(
            lambda given: self.done.append(given.payload.decode()), lambda: self.done.append("settled")
        )


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_messages_are_processed_in_order() -> None:
    recorder = Recorder()
    for text in "abc":
        recorder.inbox.put(message(text))

    assert recorder.drain()
    assert recorder.done == ["a", "b", "c"]
    assert not recorder.drain()
    assert recorder.woken == 0, "its own thread need not be woken"


def test_another_thread_wakes_the_producer() -> None:
    recorder = Recorder()
    thread, errors = in_thread(lambda: recorder.inbox.put(message("a")))
    thread.join(10)

    assert not errors
    assert recorder.woken == 1
    assert recorder.drain()


def test_who_waits_is_released_when_it_is_settled() -> None:
    recorder = Recorder()

    def hand_on() -> None:
        ticket = recorder.inbox.put(message("a"), awaited=True)
        recorder.inbox.wait(ticket)
        assert recorder.done == ["a", "settled"]

    thread, errors = in_thread(hand_on)
    wait_until(recorder.drain)
    thread.join(10)

    assert not errors
    assert not thread.is_alive()


def test_a_failure_reaches_the_producer_and_who_waits() -> None:
    recorder = Recorder()

    def fail(given: StreamMessage) -> None:
        raise ValueError("failed")

    def hand_on() -> None:
        recorder.inbox.wait(recorder.inbox.put(message("a"), awaited=True))

    thread, errors = in_thread(hand_on)
    wait_until(lambda: recorder.woken)
    with pytest.raises(ValueError, match="failed"):
        recorder.inbox.drain(fail, lambda: None)
    thread.join(10)

    (error,) = errors
    assert isinstance(error, MiddlewareError)
    assert isinstance(error.__cause__, ValueError)


def test_another_thread_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 4."""
    monkeypatch.setattr(inbox, "INBOX_BYTES", 10)
    recorder = Recorder()
    texts = ["x" * 8] * 5

    thread, errors = in_thread(lambda: [recorder.inbox.put(message(text)) for text in texts])
    wait_until(lambda: recorder.woken == 2)
    assert thread.is_alive(), "the third does not fit"
    wait_until(lambda: recorder.drain() and recorder.done == texts)
    thread.join(10)

    assert not errors


def test_the_producer_s_own_thread_never_waits_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "INBOX_BYTES", 1)
    recorder = Recorder()
    for _ in range(5):
        recorder.inbox.put(message("xx"))

    assert recorder.drain()


def test_closing_releases_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "INBOX_BYTES", 1)
    recorder = Recorder()

    def hand_on_two() -> None:
        ticket = recorder.inbox.put(message("xx"), awaited=True)
        waiting, failed = in_thread(lambda: recorder.inbox.put(message("no room")))
        try:
            recorder.inbox.wait(ticket)
        finally:
            waiting.join(10)
            assert isinstance(failed[0], MiddlewareError)

    thread, errors = in_thread(hand_on_two)
    wait_until(lambda: recorder.woken)
    recorder.inbox.close()
    thread.join(10)

    assert isinstance(errors[0], MiddlewareError)
    with pytest.raises(MiddlewareError, match="the producer has stopped"):
        recorder.inbox.put(message("late"))
