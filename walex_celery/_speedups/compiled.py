"""The hot classes as they are used: with the compiled part in front, where there is one.

A class here is its Python one with compiled fields and methods before it in the order of resolution: those do what is
usual, and call the Python behind them for the rest. Nothing is done here that Python alone does not do; tests hold
both to the same answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walex_celery import _speedups as native
from walex_celery.events import row_event
from walex_celery.events.cells import MAX_NESTING, UNCHANGED
from walex_celery.pipeline import assembler as transaction
from walex_celery.postgres import pgoutput

if TYPE_CHECKING or not native.COMPILED:
    from walex_celery.events.row_event import PlainContext as Context
    from walex_celery.events.row_event import PlainRowEvent as RowEvent
    from walex_celery.pipeline.assembler import Assembler
else:

    class Context(native.context.ContextFields, row_event.Context):
        """What the events of one chunk share; see :class:`walex_celery.events.row_event.Context`."""

        __slots__ = ()

    class RowEvent(native.rows.RowFields, row_event.RowEvent):
        """An insert, update or delete; see :class:`walex_celery.events.row_event.RowEvent`."""

        __slots__ = ()

    class Assembler(native.feeding.Feeding, transaction.Assembler):
        """The open transaction of a replication stream; see :class:`walex_celery.pipeline.assembler.Assembler`."""

        _new_context = Context

    native.context.connect(pgoutput.EARLIEST, pgoutput.LATEST)
    native.rows.connect(UNCHANGED, MAX_NESTING)
    native.feeding.connect(
        RowEvent,
        Context,
        transaction.RoutedEvent,
        transaction.Chunk,
        pgoutput.EARLIEST,
        pgoutput.LATEST,
    )

__all__ = ["Assembler", "Context", "RowEvent"]
