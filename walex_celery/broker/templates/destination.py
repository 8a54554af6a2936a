"""Where a task's messages go, if not where its own options and routes send them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from walex_celery.errors import ConfigurationError

if TYPE_CHECKING:
    from walex_celery.events.event import Event

#: AMQP's short strings have a byte for their length, and its priorities are one byte; other transports hold more.
_LONGEST_BYTES: Final = 255
_HIGHEST_PRIORITY: Final = 255


class Destination(NamedTuple):
    """Options of ``apply_async`` that say where a message goes; ``None`` leaves one to the task and the app.

    A tuple, because one is looked up for each event: a dataclass' hash is computed in Python.
    """

    queue: str | None = None
    routing_key: str | None = None
    priority: int | None = None

    def __str__(self) -> str:
        given = ((name.replace("_", " "), value) for name, value in self.options().items())
        return ", ".join(f"{name} {value!r}" for name, value in given) or "its own destination"

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for ``apply_async``."""
        return {name: value for name, value in self._asdict().items() if value is not None}


#: Where the task's own options and routes say.
TASKS_OWN: Final = Destination()

#: Chooses the destination of an event by its JSON text and the start of it that many events share (see
#: ``Publisher.add``); ``None`` for the task's own. It must depend on nothing else: an event may be asked for twice.
DestinationOf = Callable[[bytes, bytes], Destination | None]


def by_event(choose: Callable[[Event], Destination | None]) -> DestinationOf:
    """Return a :data:`DestinationOf` that decodes the event, if *choose* looks into it (about 12 us)."""
    from walex_celery.events.event import Event

    def destination_of(value: bytes, head: bytes) -> Destination | None:
        return choose(Event.from_json(value))

    return destination_of


def checked(destination: object, task: str) -> Destination:
    """Return a destination that a broker can have; ``None`` becomes the empty one.

    Raises:
        ConfigurationError: it can't, or is something else.
    """
    if destination is None:
        return TASKS_OWN
    if not isinstance(destination, Destination):
        raise ConfigurationError(
            f"The destination of task {task!r} must be a Destination or None, not {destination!r}: "
            "return Destination(queue=...)."
        )
    for name, value in (("queue", destination.queue), ("routing_key", destination.routing_key)):
        if value is not None and not (isinstance(value, str) and 0 < len(value.encode()) <= _LONGEST_BYTES):
            raise ConfigurationError(
                f"The destination of task {task!r} has {name}={value!r}: it must be a name of 1 to "
                f"{_LONGEST_BYTES} bytes."
            )
    priority = destination.priority
    if priority is not None and not (
        type(priority) is int and 0 <= priority <= _HIGHEST_PRIORITY  # True is not a priority
    ):
        raise ConfigurationError(
            f"The destination of task {task!r} has priority={priority!r}: it must be a number from 0 to "
            f"{_HIGHEST_PRIORITY}."
        )
    return destination
