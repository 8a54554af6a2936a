"""Runs the demo: servers, schema, processes, changes, a check, and a cleanup that leaves nothing behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console

from walex_celery.demo.processes import (
    Check,
    DemoError,
    Flower,
    Load,
    Producer,
    ShopProcess,
    Tail,
    Worker,
    find_project,
)
from walex_celery.demo.screen import Screen, TaskWatcher, effects_table
from walex_celery.testing.servers import Postgres, RabbitMQ, Server, ServerUnavailable, Valkey

#: Exit code if a signal ended it before the check.
EXIT_INTERRUPTED: Final = 130
#: Seconds to wait for the tasks of the last change.
DRAIN_SECONDS: Final = 60.0
_TICK_SECONDS: Final = 0.1


def run_demo(seconds: float | None) -> int:
    """Run the shop until Ctrl-C, or for *seconds*, and then check that every change made its tasks run.

    ``DEMO_BROKER=rabbitmq`` in the environment takes RabbitMQ (from the system's packages) for the broker,
    instead of Valkey.

    Returns:
        The exit code: 0 if all is well, 1 if something is missing or a process died, 130 if a signal came
        before the check.
    """
    console = Console(highlight=False, soft_wrap=False)
    with _signals() as stopping:
        try:
            with _Demo(console, stopping) as demo:
                return demo.run(seconds)
        except (DemoError, ServerUnavailable) as error:
            console.print(str(error), style="red", markup=False, soft_wrap=True)
            return 1


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets; a second signal kills as usual."""
    stopping = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        signal.signal(number, signal.SIG_DFL)

    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield stopping
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _Demo:
    """The servers and processes of one run; a context manager that stops them all."""

    def __init__(self, console: Console, stopping: threading.Event) -> None:
        self._console = console
        self._stopping = stopping
        self._screen = Screen(console)
        self._stack = ExitStack()
        self._processes: list[ShopProcess] = []

    def __enter__(self) -> _Demo:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._say("stopping")
        with ThreadPoolExecutor() as pool:
            list(pool.map(_stop_quietly, self._processes))
        self._stack.close()

    def run(self, seconds: float | None) -> int:
        """Start, watch, stop, check; returns the exit code."""
        project = find_project()
        if importlib.util.find_spec("flower") is None:
            raise DemoError("Flower is not installed: pip install 'walex-celery[demo]'")
        self._say("starting Postgres and a broker")
        environment = self._start_servers(project)
        self._say("starting producer, worker and Flower")
        flower, tail = self._start_processes(project, environment)
        if self._stopping.is_set():
            return EXIT_INTERRUPTED if seconds else 0
        with TaskWatcher(environment["BROKER_URL"], self._screen):
            load = Load(project, environment)
            self._start([load])
            self._print_addresses(flower, environment)
            ended = None if seconds is None else time.monotonic() + seconds
            self._watch(tail, flower, lambda: ended is not None and time.monotonic() >= ended)
            self._processes.remove(load)
            _stop_quietly(load)
            if self._stopping.is_set():
                self._screen.flush(everything=True)
                self._say(f"{self._screen.changes} changes, {self._screen.tasks} tasks")
                return EXIT_INTERRUPTED if seconds else 0
            return self._check(project, environment, load, tail, flower)

    # Starting.

    def _start_servers(self, project: Path) -> dict[str, str]:
        """Start the servers; returns the environment variables with their addresses."""
        chosen = os.environ.get("DEMO_BROKER") or "valkey"
        if chosen not in ("valkey", "rabbitmq"):
            raise DemoError(f"DEMO_BROKER is valkey or rabbitmq, not {chosen!r}")
        postgres, valkey = Postgres(settings={"fsync": "off"}), Valkey()
        rabbitmq = RabbitMQ() if chosen == "rabbitmq" else None
        self._start([postgres, valkey] + ([rabbitmq] if rabbitmq else []))
        database = postgres.create_database("shop")
        with closing(postgres.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute((project / "schema.sql").read_text())
        return {
            "WALEX_URL": postgres.url(database),
            "SHOP_DATABASE_URL": postgres.url(database),
            "BROKER_URL": rabbitmq.url() if rabbitmq else valkey.url(0),
            "SHOP_CACHE_URL": valkey.url(1),
        }

    def _start_processes(self, project: Path, environment: dict[str, str]) -> tuple[Flower, Tail]:
        worker = Worker(project, environment)
        # In the folder of a process, and so removed with it.
        environment["SHOP_OUTBOX"] = str(worker.folder / "outbox")
        flower, tail = Flower(project, environment), Tail(project, environment)
        self._start([Producer(project, environment), worker, flower, tail])
        return flower, tail

    def _start(self, servers: Sequence[Server]) -> None:
        """Start them all at once, and wait until all are ready."""
        for server in servers:
            self._stack.callback(server.close)
            if isinstance(server, ShopProcess):
                self._processes.append(server)
        with ThreadPoolExecutor() as pool:
            for started in [pool.submit(server.start) for server in servers]:
                started.result()

    # Watching.

    def _print_addresses(self, flower: Flower, environment: dict[str, str]) -> None:
        for process in self._processes:
            self._say(f"  {process.name:10} pid {process.pid:<8} log {process.log_path}")
        self._say(f"  emails     {environment['SHOP_OUTBOX']}")
        self._say(f"  Flower     {flower.url}")
        self._say(f"  and try    . {flower.write_variables()} && celery -A shop walex status --watch")
        self._say("Each change, and under it the tasks it caused. Press Ctrl-C to stop.")

    def _watch(self, tail: Tail, flower: Flower, done: Callable[[], bool]) -> None:
        """Show what happens until it is *done*, or a signal comes.

        Raises:
            DemoError: a process ended.
        """
        screen = self._screen
        with ExitStack() as stack:
            status = None
            if self._console.is_terminal:
                status = stack.enter_context(self._console.status(""))
            while not (self._stopping.wait(_TICK_SECONDS) or done()):
                for event in tail.new_events():
                    screen.change(event)
                screen.flush()
                if status is not None:
                    status.update(f"{screen.changes} changes, {screen.tasks} tasks. Flower: {flower.url}")
                self._look_after_processes()

    def _look_after_processes(self) -> None:
        for process in self._processes:
            if not process.running:
                self._screen.flush(everything=True)
                raise DemoError(
                    f"the {process.name} ended by itself; the end of its log:\n{process.last_lines()}\n"
                    f"the {process.name} ended by itself; the end of its log is above"
                )

    # Checking.

    def _check(
        self, project: Path, environment: dict[str, str], load: Load, tail: Tail, flower: Flower
    ) -> int:
        if not load.report.exists():
            raise DemoError(f"load.py left no report; the end of its log:\n{load.last_lines()}")
        self._say("no more changes; waiting for their tasks")
        check = Check(project, environment, load.report, DRAIN_SECONDS)
        self._stack.callback(check.close)
        check.start()
        self._watch(tail, flower, lambda: not check.running)
        self._screen.flush(everything=True)
        if self._stopping.is_set():
            return EXIT_INTERRUPTED
        try:
            table, missing = effects_table(check.log())
        except ValueError:
            raise DemoError(f"check.py failed:\n{check.last_lines()}") from None
        self._console.print(table)
        self._say(f"{self._screen.changes} changes, {self._screen.tasks} tasks")
        for line in missing:
            self._console.print(f"missing: {line}", style="red")
        if self._screen.failures:
            self._console.print(f"{self._screen.failures} tasks failed", style="red")
        if missing or self._screen.failures:
            return 1
        self._say("every change made its tasks run")
        return 0

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def _stop_quietly(server: Server) -> None:
    with suppress(ServerUnavailable):
        server.stop()
