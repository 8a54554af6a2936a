"""What the tests of dead letters share."""

from __future__ import annotations

from typing import Any

from tests import messages as m
from tests.pipeline.test_assembler import USERS, USERS_RELATION, Listener
from walex_celery import Event
from walex_celery.dead_letters import Letter, letter_of
from walex_celery.filters import Filters
from walex_celery.handlers.registry import Handler


def events(*names: bytes) -> list[Event]:
    """The events of one transaction that inserts users."""
    listener = Listener(Handler("on_event", None, None, Filters(), (), print, __name__))
    inserts = [m.insert(USERS, str(number).encode(), name) for number, name in enumerate(names, 1)]
    (chunk,) = listener.feed(m.begin(), USERS_RELATION, *inserts, m.commit())
    return [event for event, _ in chunk.routed]


def letter(*names: bytes, **different: Any) -> Letter:
    """A letter of a batch handler."""
    given: dict[str, Any] = {
        "instance": "shop",
        "system_identifier": 18446744073709551615,
        "handler": "shop.fragile",
        "registration": "on_insert(users)",
        "error_type": "ValueError",
        "error": "as it does",
        "traceback": "Traceback (most recent call last):\nValueError: as it does",
        "tries": 1,
    }
    return letter_of(events(*(names or (b"ada",))), **(given | different))


def never(letter: Letter) -> None:
    """A try that must not be made."""
    raise AssertionError(f"{letter.id} was tried")
