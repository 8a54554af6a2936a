"""What is to be done with a table's rows, resolved once when its Relation message arrives."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import NamedTuple

from walex_celery.events.cells import UNCHANGED, Cell
from walex_celery.events.event import Source
from walex_celery.events.row_event import RowSource
from walex_celery.events.shape import Shape
from walex_celery.handlers.routes import Route
from walex_celery.postgres import pgoutput
from walex_celery.postgres.lsn import Lsn


class OldRows(enum.Enum):
    """What the old tuples ('O') of a relation with REPLICA IDENTITY FULL hold.

    With ``publish_via_partition_root`` Postgres calls them by the identity of the root, and makes them by that of
    the partition, which inherits none: the key of a partition then comes as if it were the whole old row, with
    nulls in place of unknown values. See :mod:`walex_celery.pipeline.relations`.
    """

    WHOLE = enum.auto()
    """The old row: the table is not partitioned."""
    BY_PARTITION = enum.auto()
    """The old row if all partitions are FULL; otherwise what is not null is known."""
    OF_GONE_TABLE = enum.auto()
    """The old row, unless the stream describes partitions that are not FULL: the catalog does not have the table."""


class TablePlan(RowSource):
    """What to do with a relation's rows, resolved once when its Relation message arrives.

    ``insert``, ``update``, ``delete`` and ``truncate`` say who wants events of each type.
    """

    __slots__ = ("_old_rows", "delete", "insert", "is_key", "truncate", "update", "whole_kind", "width")

    def __init__(
        self,
        source: Source,
        shape: Shape,
        by_type: Mapping[str, Route],
        old_rows: OldRows = OldRows.WHOLE,
    ) -> None:
        super().__init__(source, shape)
        # None where no handler wants it: asked for each row.
        self.insert = by_type.get("insert") or None
        self.update = by_type.get("update") or None
        self.delete = by_type.get("delete") or None
        self.truncate = by_type.get("truncate") or None
        self.is_key = tuple(name in source.key for name in shape.names)
        self.width = len(shape.names)
        self._old_rows = old_rows
        #: The kind of old tuple that is the whole old row, and need not be looked at.
        self.whole_kind = pgoutput.OLD_TUPLE if old_rows is not OldRows.BY_PARTITION else -1

    def go_by(self, partitions_are_full: bool | None) -> None:
        """Take old rows for whole, or not, by what the stream has said of partitions; ``None`` if nothing."""
        if self._old_rows is not OldRows.WHOLE:
            whole = partitions_are_full or (
                partitions_are_full is None and self._old_rows is OldRows.OF_GONE_TABLE
            )
            self.whole_kind = pgoutput.OLD_TUPLE if whole else -1

    def known(self, kind: int, old: list[Cell]) -> tuple[list[Cell], bool]:
        """An old tuple of another kind, without the nulls that stand for nothing known, and whether it is whole."""
        if len(old) != self.width:
            return old, False  # Assembler._row refuses it
        if kind == pgoutput.KEY_TUPLE:
            return [cell if key else UNCHANGED for cell, key in zip(old, self.is_key, strict=True)], False
        return [UNCHANGED if cell is None else cell for cell in old], False


class DatedPlan(NamedTuple):
    """A plan that depends on what may be altered unseen by the stream: checked again for each transaction."""

    #: It holds for transactions that committed before this; for later ones the plan is made again.
    read_at: Lsn
    #: Whether the alteration may have been incomplete when the transaction of this id began.
    altered_after: Callable[[int], bool]
    plan: TablePlan
    #: For transactions that may have been before the alteration.
    otherwise: TablePlan
    #: Look again: up to where it holds by now (at least for what has been read), or ``None`` to make it again.
    unaltered: Callable[[], Lsn | None]
    #: Whether looking again may tell more of alterations that may or may not have been complete.
    is_due: Callable[[], bool]


class Planning(NamedTuple):
    """Who decides what is done with each message.

    Attributes:
        plan: called with each Relation message; ``None`` means that no handler wants the table.
        message_plan: called with a message's prefix; who wants it.
        message_source: the source of events made of messages.
        announce: called with each Type message.
    """

    plan: Callable[[pgoutput.Relation], TablePlan | DatedPlan | None]
    message_plan: Callable[[str], Route]
    message_source: Source
    announce: Callable[[pgoutput.Type], None]
