"""Whether the running workers know the producer's functions: a worker drops a task that it does not know."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Any, Final

from celery import Celery

from walex_celery.app import WalEx
from walex_celery.broker import open_link
from walex_celery.handlers.registry import resolve_functions
from walex_celery.pipeline.producer import Producer

logger = logging.getLogger("walex_celery.producer")

#: Seconds for the broker to be reached, and in which workers' answers are collected.
_CONNECT_SECONDS: Final = 3.0
_ANSWER_SECONDS: Final = 1.0


class WorkersKnow:
    """While it is entered, a thread asks the workers once *producer* streams; the start waits for nothing.

    Args:
        app: the application.
        walex: the instance.
        producer: its producer.
    """

    def __init__(self, app: Celery, walex: WalEx, producer: Producer) -> None:
        self._app = app
        self._walex = walex
        self._producer = producer
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="walex-workers-know", daemon=True)

    def __enter__(self) -> WorkersKnow:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        # A hanging broker must not delay the end of the process.
        self._thread.join(timeout=_ANSWER_SECONDS)

    def _run(self) -> None:
        while not self._producer.streaming.wait(0.2):
            if self._closing.is_set():
                return
        # Whoever does not want it to be seen by monitors need not allow broadcasts either.
        if not self._walex.settings.flower:
            return
        try:
            known = self._ask()
        except Exception as error:  # every driver has its own error classes; some have no broadcasts
            logger.debug("could not ask the workers which tasks they know: %r", error)
            return
        self._warn(known)

    def _ask(self) -> dict[str, frozenset[str]]:
        """The tasks that each worker knows, by its name; without producers, which consume no queue."""
        link = open_link(self._app, _CONNECT_SECONDS)
        try:
            link.connect()
            inspect: Any = self._app.control.inspect(timeout=_ANSWER_SECONDS, connection=link.connection)
            consuming = {name for name, queues in (inspect.active_queues() or {}).items() if queues}
            registered = inspect.registered() if consuming else None
        finally:
            link.close()
        return {
            # 'shop.tasks.add [rate_limit=...]'
            name: frozenset(str(task).partition(" ")[0] for task in tasks or ())
            for name, tasks in (registered or {}).items()
            if name in consuming
        }

    def _warn(self, known: dict[str, frozenset[str]]) -> None:
        if not known:
            return  # none runs, or none answered: tasks wait
        functions = dict.fromkeys(
            str(getattr(function, "name", function))
            for handler in self._walex.handlers
            for function in resolve_functions(self._app, handler)
        )
        for function in functions:
            if not any(function in tasks for tasks in known.values()):
                logger.warning(
                    "no running worker knows task %s (%s answered): a worker that gets it drops it, and its change has "
                    "been acknowledged by then\n"
                    "  fix: deploy the workers first: restart them with the code that has the task",
                    function,
                    ", ".join(sorted(known)),
                    extra={"task": function},
                )
