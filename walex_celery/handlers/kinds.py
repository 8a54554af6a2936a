"""The kinds of events there are: one table, which everything that treats kinds differently reads.

A new kind is an entry of :data:`KINDS`, and what makes such an event. To be in ``EventType`` it must be named there
too, for type checkers; and if users register handlers for it alone, :class:`~walex_celery.WalEx` has a method of that
name, with the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from walex_celery.events.event import EventType


class EventKind(NamedTuple):
    """What is true of all events of a kind."""

    #: As ``event.type`` has it.
    name: EventType
    #: Of the decorator that registers handlers for this kind alone.
    decorator: str
    #: Whether it is of a table; if not, of a prefix of messages.
    of_table: bool
    #: Whether ``publish`` of a publication names it, and ``on_event`` sees it.
    published: bool
    #: Whether it has the row as it is afterwards.
    has_new_row: bool
    #: Whether it has the row as it was before, as far as the table's replica identity gives it.
    has_old_row: bool
    #: Of its name in a terminal.
    colour: str

    @property
    def publication_flag(self) -> str:
        """The column of ``pg_publication`` that says whether a publication has it."""
        return f"pub{self.name}"


INSERT: Final = EventKind(
    name="insert",
    decorator="on_insert",
    of_table=True,
    published=True,
    has_new_row=True,
    has_old_row=False,
    colour="green",
)
UPDATE: Final = EventKind(
    name="update",
    decorator="on_update",
    of_table=True,
    published=True,
    has_new_row=True,
    has_old_row=True,
    colour="yellow",
)
DELETE: Final = EventKind(
    name="delete",
    decorator="on_delete",
    of_table=True,
    published=True,
    has_new_row=False,
    has_old_row=True,
    colour="red",
)
TRUNCATE: Final = EventKind(
    name="truncate",
    decorator="on_truncate",
    of_table=True,
    published=True,
    has_new_row=False,
    has_old_row=False,
    colour="magenta",
)
MESSAGE: Final = EventKind(
    name="message",
    decorator="on_message",
    of_table=False,
    published=False,
    has_new_row=False,
    has_old_row=False,
    colour="cyan",
)

#: All of them, in the order in which the manual lists what a publication may ``publish``.
KINDS: Final[Mapping[EventType, EventKind]] = MappingProxyType(
    {kind.name: kind for kind in (INSERT, UPDATE, DELETE, TRUNCATE, MESSAGE)}
)

#: What a publication sends of a table.
PUBLISHED: Final = tuple(kind.name for kind in KINDS.values() if kind.published)
#: What a table's plan has a route for.
OF_TABLES: Final = tuple(kind.name for kind in KINDS.values() if kind.of_table)
#: For these Postgres needs a replica identity.
WITH_OLD_ROW: Final = frozenset(kind.name for kind in KINDS.values() if kind.has_old_row)

#: The decorator for all that is published of a table.
ON_EVENT: Final = "on_event"

#: The types of events that a handler registered by each decorator sees.
DECORATORS: Final[Mapping[str, tuple[EventType, ...]]] = MappingProxyType(
    {ON_EVENT: PUBLISHED, **{kind.decorator: (kind.name,) for kind in KINDS.values()}}
)


def is_of_tables(decorator: str) -> bool:
    """Whether *decorator* takes a table; one that does not takes a prefix of messages.

    >>> is_of_tables("on_event"), is_of_tables("on_message")
    (True, False)
    """
    return any(KINDS[name].of_table for name in DECORATORS[decorator])
