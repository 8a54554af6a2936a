"""The task-sent events of a batch as one ``task.multi``, which Flower and other monitors split again."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery

logger = logging.getLogger("walex_celery.broker.events")


class EventPublisher:
    """Publishes task-sent events on a channel; a failure costs the events, never the tasks.

    Args:
        app: the Celery app.
        sender: the node that they are sent as; ``None`` for one made of process and host.
    """

    def __init__(self, app: Celery, sender: str | None = None) -> None:
        self._app = app
        self._sender = sender
        self._dispatcher: Any = None
        self._channel: Any = None

    def publish(self, channel: Any, events: list[dict[str, Any]]) -> bool:
        """Publish all events as one message; return whether that succeeded."""
        try:
            if self._dispatcher is None or self._channel is not channel:
                self._channel = channel
                self._dispatcher = self._app.events.Dispatcher(
                    channel=channel,
                    hostname=self._sender,
                    enabled=True,
                    buffer_group={"task"},
                    buffer_limit=len(events) + 1,
                )
            self._dispatcher.buffer_limit = len(events) + 1  # one message a batch, whatever its size
            for fields in events:
                self._dispatcher.send("task-sent", **fields)
            self._dispatcher.flush()
        except Exception as error:
            self.forget()
            logger.warning(
                "%d task-sent events could not be published: %s", len(events), type(error).__name__
            )
            return False
        return True

    def forget(self) -> None:
        """Forget the channel, whose connection is gone."""
        self._dispatcher = self._channel = None
