"""Named places where a test can stop, kill or fail a real producer.

They are armed when the process starts, by the environment variable ``WALEX_FAILPOINTS``, and do nothing otherwise::

    WALEX_FAILPOINTS="tasks-confirmed=kill; spool-synced=pause@2:/tmp/here"

Each entry is ``name=action``, or ``name=action@n`` for the n-th time that the place is reached; it acts once. Actions:

``kill``
    SIGKILL, as by the kernel when memory runs out.
``exit``
    Exit at once with :data:`EXIT_STATUS`; nothing is closed.
``raise``
    Raise :class:`FailpointReached`.
``pause:FILE``
    Make FILE, and go on when it is removed. Only the thread that got there waits.

A place is reached once a batch, a slice or a file, never once a message.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

Name: TypeAlias = Literal[
    "tasks-added",  # batch handlers have returned, their tasks are collected, none has been written
    "tasks-written",  # the broker may have the tasks; its confirmation has not been read
    "reply-unread",  # Redis: a reply, that of the exactly-once script for example, is about to be read
    "tasks-confirmed",  # the broker has confirmed; nothing has been acknowledged
    "acknowledged",  # the acknowledgement of finished tasks has been sent to Postgres
    "letter-stored",  # a dead letter has been stored; it has not been counted or logged
    "spool-written",  # messages have been written to the spool, and may be read; they have not been synced
    "spool-synced",  # what was written has been synced; it has not been acknowledged
    "spool-position-saved",  # the position is on the disk; the segments before it have not been removed
]

#: The status of a process that ``exit`` ended; no command of ours returns it.
EXIT_STATUS: Final = 99

_ACTIONS: Final = ("kill", "exit", "raise", "pause")


class FailpointReached(RuntimeError):
    """Raised at a failpoint that is armed with ``raise``."""


class _Point:
    """An armed place.

    Args:
        name: of the place.
        action: what to do there.
        turn: the time at which to do it, from 1.
        file: made while it pauses.
    """

    def __init__(self, name: str, action: str, turn: int, file: str) -> None:
        self._name = name
        self._action = action
        self._turn = turn
        self._file = Path(file)
        self._reached = 0

    def reach(self) -> None:
        self._reached += 1
        if self._reached != self._turn:
            return
        print(f"failpoint {self._name}: {self._action}", file=sys.stderr, flush=True)
        if self._action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._action == "exit":
            os._exit(EXIT_STATUS)
        elif self._action == "raise":
            raise FailpointReached(self._name)
        else:
            self._file.touch()
            while self._file.exists():
                time.sleep(0.01)


def _parse(text: str) -> dict[str, _Point]:
    points = {}
    for entry in filter(None, map(str.strip, text.split(";"))):
        name, _, what = entry.partition("=")
        what, _, file = what.partition(":")
        action, _, turn = what.partition("@")
        known = (
            name in get_args(Name)
            and action in _ACTIONS
            and (not turn or (turn.isdecimal() and int(turn) > 0))
        )
        if not known or (action == "pause") != bool(file):
            raise ValueError(
                f"WALEX_FAILPOINTS: {entry!r} can't be read: NAME=ACTION, NAME=ACTION@n or NAME=pause:FILE, with "
                f"NAME one of {', '.join(get_args(Name))} and ACTION one of {', '.join(_ACTIONS)}"
            )
        points[name] = _Point(name, action, int(turn or 1), file)
    return points


_points: Final = _parse(os.environ.get("WALEX_FAILPOINTS", ""))


def failpoint(name: Name) -> None:
    """Mark a place; it does nothing unless armed."""
    if _points and (point := _points.get(name)) is not None:
        point.reach()
