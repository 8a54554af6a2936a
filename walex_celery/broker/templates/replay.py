"""The two calls at the heart of ``send_task``, recorded once and made again for each message.

What ``apply_async`` and ``send_task`` do around them (options, routes, results) is the same for all
messages of a task, and costs twice as much as they do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

from walex_celery.broker.templates.body import wire_argument


class Replay:
    """Makes and sends a task's message as Celery did when it was recorded."""

    def __init__(self) -> None:
        self._create: Callable[..., Any] | None = None
        self._send: Callable[..., Any] | None = None
        self._after_args: tuple[Any, ...] = ()
        self._create_options: dict[str, Any] = {}
        self._send_options: dict[str, Any] = {}
        self._name = ""

    @contextmanager
    def recording(self, app: Celery) -> Iterator[None]:
        """Listen to the app while one message is sent."""
        amqp: Any = app.amqp
        create, send = amqp.create_task_message, amqp.send_task_message

        def create_task_message(task_id: str, name: str, args: Any, *rest: Any, **options: Any) -> Any:
            self._name, self._after_args, self._create_options = name, rest, options
            return create(task_id, name, args, *rest, **options)

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            self._send_options = options
            return send(producer, name, message, **options)

        self._create, self._send = create, send
        amqp.create_task_message, amqp.send_task_message = create_task_message, send_task_message
        try:
            yield
        finally:
            amqp.create_task_message, amqp.send_task_message = create, send

    def __call__(self, producer: Any, task_id: str, value: bytes, argsrepr: str) -> None:
        """Send one message through ``producer``."""
        assert self._create is not None
        assert self._send is not None
        options = {**self._create_options, "argsrepr": argsrepr}
        args = (wire_argument(value),)
        message = self._create(task_id, self._name, args, *self._after_args, **options)
        send_options = self._send_options
        if "argsrepr" in send_options:  # Celery passes it on as a property, which signal receivers see
            send_options = {**send_options, "argsrepr": argsrepr}
        self._send(producer, self._name, message, **send_options)
