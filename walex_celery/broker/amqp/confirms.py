"""Which of the messages on an AMQP channel the broker has confirmed, refused or returned."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from amqp import exceptions

from walex_celery.broker.templates.wire import Address, Item


@dataclass(frozen=True, slots=True)
class Returned:
    """A ``basic.return``: the broker found no queue for the message."""

    task: str
    text: str
    exchange: str
    routing_key: str


class Confirms:
    """Keeps the unanswered delivery tags as a set: with several queues, acks come out of order."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.next_tag = 1
        self.answered = 0
        self.unanswered: dict[int, Item] = {}
        self.nacked: dict[int, Address] = {}
        self.returned: dict[str, Returned] = {}  # by task id
        self._lowest = 1  # all below are answered
        self._size_bytes = 0

    def attach(self, channel: Any) -> None:
        """Listen to a new channel, whose tags start at 1."""
        self._reset()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)

    def sent(self, items: list[Item]) -> None:
        """Note messages as written, in this order."""
        tags = range(self.next_tag, self.next_tag + len(items))
        self.unanswered.update(zip(tags, items, strict=True))
        self.next_tag = tags.stop
        self._size_bytes += sum(len(item[2]) + len(item[3]) for item in items)

    def room(self, count: int, size_bytes: int) -> bool:
        """Whether more may be written within a window of this many messages and bytes."""
        return len(self.unanswered) <= count and self._size_bytes <= size_bytes

    def answered_below(self, tag: int) -> bool:
        """Whether all messages before this tag are answered."""
        while self._lowest < self.next_tag and self._lowest not in self.unanswered:
            self._lowest += 1
        return self._lowest >= tag

    def _answer(self, tag: int, multiple: bool) -> list[tuple[int, Item]]:
        if not 0 < tag < self.next_tag:
            # With "multiple" it would confirm messages that are not even made yet.
            raise exceptions.RecoverableConnectionError(
                f"it answered delivery tag {tag}, where tags 1 to {self.next_tag - 1} were sent (protocol error)"
            )
        tags = range(self._lowest, tag + 1) if multiple else (tag,)
        if multiple:
            self._lowest = max(self._lowest, tag + 1)
        answered = [(t, item) for t in tags if (item := self.unanswered.pop(t, None)) is not None]
        self._size_bytes -= sum(len(item[2]) + len(item[3]) for _, item in answered)
        self.answered += len(answered)
        return answered

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._answer(tag, multiple)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self.nacked.update((t, item[0]) for t, item in self._answer(tag, multiple))

    def _on_return(self, error: Any, exchange: str, routing_key: str, message: Any) -> None:
        # It comes before the message's ack; Celery makes the task id the correlation id.
        properties = message.properties
        task = str((properties.get("application_headers") or {}).get("task", "?"))
        returned = Returned(task, str(error.reply_text), exchange, routing_key)
        self.returned[str(properties.get("correlation_id"))] = returned

    @property
    def refused(self) -> bool:
        """Whether the broker refused or returned a message."""
        return bool(self.nacked or self.returned)

    def safe(self, tag: int, task_id: str) -> bool:
        """Whether the broker has the message in a queue."""
        if tag in self.unanswered or tag in self.nacked or tag >= self.next_tag:
            return False
        return task_id not in self.returned

    def guess(self, text: str) -> Address | None:
        """Return the address of the message that made the broker close the channel, if that can be seen."""
        size = re.search(r"message size (\d+)", text)
        name = re.search(r"exchange '([^']*)'", text)
        for address, _, _, body in self.unanswered.values():
            if (size and len(body) - 8 == int(size[1])) or (name and address.exchange == name[1]):
                return address
        return None

    def forget(self) -> None:
        """Forget refusals that were reported."""
        self.nacked.clear()
        self.returned.clear()
