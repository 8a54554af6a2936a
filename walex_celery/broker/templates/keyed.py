"""A task whose destination is chosen for each event, which costs a look-up and not its templates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from celery import Celery

from walex_celery.broker.templates.destination import Destination, DestinationOf, checked
from walex_celery.broker.templates.target import TaskTarget

if TYPE_CHECKING:
    from walex_celery.broker.driver import Encoder
    from walex_celery.broker.templates.wire import Item, Template

logger = logging.getLogger("walex_celery.broker.function")

#: Destinations of a task that are kept planned; making the plan for one takes some milliseconds.
MOST_DESTINATIONS: Final = 1000


class KeyedTarget(TaskTarget):
    """A Celery task that events are sent to, each to the destination that a function chooses.

    For each destination there is a variant (:meth:`TaskTarget.to`) with its own proved template; ``declares`` are
    those of the destinations known so far, and writers declare the others before their first message.

    Args:
        app: the Celery app.
        task: the task, or its name.
        encoder: makes the bytes of messages.
        choose: the destination of an event; what it raises is raised for that event.
        among: destinations to plan now, so that mistakes are found, and queues declared, before the first event.

    Raises:
        ConfigurationError: the task can't be sent, or not to one of *among*.
    """

    def __init__(
        self,
        app: Celery,
        task: Any,
        encoder: Encoder,
        choose: DestinationOf,
        among: Iterable[Destination] = (),
    ) -> None:
        self._choose = choose
        self._templates: dict[Destination | None, Template | None] = {}
        super().__init__(app, task, encoder)
        for destination in among:
            self._variant(destination)

    def plan(self) -> None:
        """Choose the way for the task, and for each destination known so far."""
        super().plan()
        self._templates.clear()
        # Without templates, and for task-sent events, which name the destination, `collect` asks the variant.
        self.template = self._fill if self.template is not None and self.sent_event is None else None
        self._note_declares()

    def _note_declares(self) -> None:
        found = {entity: None for variant in self._variants.values() for entity in variant.declares}
        self.declares = tuple(found)

    def _variant(self, chosen: object) -> TaskTarget:
        """Return the target for what the function chose."""
        destination = checked(chosen, self.name)
        variant = self._variants.get(destination)
        if variant is not None:
            return variant
        if len(self._variants) >= MOST_DESTINATIONS:
            logger.warning(
                "Task %s has had more than %d destinations: planning each takes time. Choose among fewer, by a hash "
                "of the key.",
                self.name,
                MOST_DESTINATIONS,
            )
            self._variants.clear()
            self._templates.clear()
        variant = self.to(*destination)
        self._note_declares()
        if not self.eager and variant.way != self.way:
            logger.info("Task %s to %s %s", self.name, destination, variant.in_words)
        return variant

    def _fill(self, task_id: str, value: bytes, argsrepr: str, head: bytes = b"") -> Item | None:
        """Fill the template of the event's destination; ``None`` if that has none."""
        destination = self._choose(value, head)
        try:
            template = self._templates[destination]
        except (KeyError, TypeError):  # it is new, or no Destination
            template = self._templates[destination] = self._variant(destination).template
        return None if template is None else template(task_id, value, argsrepr, head)

    def collect(
        self, task_id: str, value: bytes, argsrepr: str, head: bytes = b""
    ) -> tuple[list[Item], list[dict[str, Any]]]:
        """Return the messages for one task, and its task-sent events, as made for the event's destination."""
        variant = self._variant(self._choose(value, head))
        template = variant.template
        if template is None or (item := template(task_id, value, argsrepr, head)) is None:
            return variant.collect(task_id, value, argsrepr, head)
        events = [variant.sent_event_of(task_id, argsrepr)] if variant.sent_event is not None else []
        return [item], events

    def send_at_once(
        self, task_id: str, value: bytes, argsrepr: str, head: bytes, write: Callable[[Item], None]
    ) -> list[dict[str, Any]]:
        """As for the event's destination."""
        variant = self._variant(self._choose(value, head))
        return variant.send_at_once(task_id, value, argsrepr, head, write)
