"""What the demo shows: each change, and under it the tasks it caused, with what they did."""

from __future__ import annotations

import json
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

from celery import Celery
from celery.events.receiver import EventReceiver
from kombu import Connection
from rich.console import Console
from rich.table import Table
from rich.text import Text

from walex_celery.events.event import Event
from walex_celery.events.task_id import parse_task_id
from walex_celery.operations.tail import render_event

#: Seconds to hold back a line for those that belong above it: changes and tasks arrive on different paths.
SETTLE_SECONDS: Final = 0.4


class _Line(NamedTuple):
    lsn: int
    place: int  # in the transaction
    rank: int  # the change before its tasks
    came: float
    text: Text


class Screen:
    """Prints lines in the order of the WAL; call :meth:`flush` often."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.changes = 0
        self.tasks = 0
        self.failures = 0
        self._came: SimpleQueue[_Line] = SimpleQueue()
        self._held: list[_Line] = []

    def change(self, event: Event) -> None:
        """Show a change."""
        self.changes += 1
        self._came.put(_Line(event.lsn, event.index, 0, time.monotonic(), render_event(event)))

    def task(self, event: dict[str, Any], name: str) -> None:
        """Show that a task has ended; *event* is Celery's, callable from any thread."""
        failed = event["type"] == "task-failed"
        self.tasks += not failed
        self.failures += failed
        try:
            position = parse_task_id(event["uuid"])
        except ValueError:
            return
        text = Text().append("             └ ", style="dim")
        text.append(name.rpartition(".")[2], style="bold red" if failed else "bold")
        text.append(f" {event['exception'] if failed else _said(event.get('result'))}")
        if not failed:
            text.append(f" {1000 * event['runtime']:.0f} ms", style="dim")
        self._came.put(_Line(position.lsn, position.index, 1, time.monotonic(), text))

    def flush(self, *, everything: bool = False) -> None:
        """Print the lines that have waited long enough, with all that belong to the same changes."""
        while True:
            try:
                self._held.append(self._came.get_nowait())
            except Empty:
                break
        due = time.monotonic() - SETTLE_SECONDS
        settled = {line[:2] for line in self._held if everything or line.came <= due}
        for line in sorted((line for line in self._held if line[:2] in settled), key=lambda line: line[:4]):
            self._print(line.text)
        self._held = [line for line in self._held if line[:2] not in settled]

    def _print(self, text: Text) -> None:
        # Truncated to one line each on a terminal; in full in a file or a pipe.
        if self.console.is_terminal:
            self.console.print(text, no_wrap=True, overflow="ellipsis")
        else:
            self.console.print(text, soft_wrap=True)


def _said(result: object) -> str:
    # Celery's event has the repr of the result.
    text = str(result)
    return text[1:-1] if text[:1] in "'\"" and text[-1:] == text[:1] else text


class TaskWatcher:
    """Shows Celery's task events, the same as Flower gets, on the screen; a context manager."""

    def __init__(self, broker_url: str, screen: Screen) -> None:
        self._screen = screen
        self._names: dict[str, str] = {}
        self._stopping = threading.Event()
        self._connection = Connection(broker_url)
        handlers = {
            "task-received": self._received,
            "task-succeeded": self._ended,
            "task-failed": self._ended,
        }
        self._receiver = EventReceiver(self._connection, handlers=handlers, app=Celery("demo"))
        self._thread = threading.Thread(target=self._run, name="demo-events", daemon=True)

    def __enter__(self) -> TaskWatcher:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join(5)
        self._connection.release()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._receiver.capture(limit=None, timeout=0.5, wakeup=False)
            except TimeoutError:
                continue
            except (*self._connection.connection_errors, *self._connection.channel_errors):
                # The broker is stopping; the demo itself reports why.
                self._stopping.wait(0.5)

    def _received(self, event: dict[str, Any]) -> None:
        self._names[event["uuid"]] = event["name"]

    def _ended(self, event: dict[str, Any]) -> None:
        self._screen.task(event, self._names.pop(event["uuid"], "task"))


def effects_table(checked: str) -> tuple[Table, list[str]]:
    """The table of expected and found effects in the output of ``check.py --json``, with wrong ones marked."""
    table = Table("effect", "expected", "found", "", title="Did every change make its tasks run?")
    missing = []
    for line in json.loads(checked):
        right = line["expected"] == line["found"]
        table.add_row(line["effect"], line["expected"], line["found"], "✓" if right else "✗")
        if not right:
            missing.append(f"{line['effect']}: {line['expected']} expected, {line['found']} found")
    return table, missing
