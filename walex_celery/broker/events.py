"""The task-sent events of a batch as ``task.multi``, which Flower and other monitors split again."""

from __future__ import annotations

import logging
from typing import Any, Final

from celery import Celery

logger = logging.getLogger("walex_celery.broker.events")

#: Events in one message: some 400 kB, where the lowest usual limit for a message is 1 MiB.
AT_ONCE: Final = 1000


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
        """Publish all events, in as few messages as brokers accept; return whether that succeeded."""
        try:
            if self._dispatcher is None or self._channel is not channel:
                self._channel = channel
                self._dispatcher = self._app.events.Dispatcher(
                    channel=channel,
                    hostname=self._sender,
                    enabled=True,
                    buffer_group={"task"},
                    buffer_limit=AT_ONCE,
                )
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
