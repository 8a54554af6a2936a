"""What a thread is doing, as another sees it."""

from __future__ import annotations

import time

from tests.support import wait_until
from walex_celery.telemetry.activity import Activity, Doing


def test_it_begins_with_starting() -> None:
    assert Activity().now.doing is Doing.STARTING


def test_what_was_done_before_goes_on_afterwards() -> None:
    activity = Activity()
    activity.begin(Doing.STREAMING)

    with activity.during(Doing.HANDLER, "shop.inserted"):
        assert activity.now[:2] == (Doing.HANDLER, "shop.inserted")

    assert activity.now[:2] == (Doing.STREAMING, "")


def test_saying_it_again_shows_that_it_goes_on() -> None:
    activity = Activity()
    activity.begin(Doing.STREAMING)
    wait_until(lambda: activity.now.seconds > 0.05)

    began = time.monotonic()
    assert activity.begin(Doing.STREAMING) == (Doing.STREAMING, "")
    assert activity.now.seconds <= time.monotonic() - began
