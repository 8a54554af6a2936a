"""Relations to plans: what to do with a table's rows, decided when its Relation message arrives."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from walex_celery.events.event import VERSION, Source
from walex_celery.events.shape import Shape
from walex_celery.events.values import TypeDefinition
from walex_celery.filters import OWN_SCHEMA, Table
from walex_celery.handlers.kinds import MESSAGE, OF_TABLES
from walex_celery.handlers.registry import Handler
from walex_celery.handlers.routes import Route, message_route, route_of
from walex_celery.pipeline.table_plan import DatedPlan, OldRows, Planning, TablePlan
from walex_celery.postgres.catalog import Altered, Catalog
from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.pgoutput import Relation
from walex_celery.settings.model import WalExSettings
from walex_celery.telemetry.statistics import Statistics

SOURCE_NAME = "WalEx"


class Planner:
    """Makes plans by the settings and handlers in force; see :class:`~walex_celery.pipeline.assembler.Assembler`."""

    def __init__(
        self,
        settings: WalExSettings,
        handlers: Iterable[Handler],
        catalog: Catalog,
        statistics: Statistics | None = None,
    ) -> None:
        self.settings = settings
        self._handlers = handlers
        self._catalog = catalog
        self._statistics = Statistics() if statistics is None else statistics

    @property
    def planning(self) -> Planning:
        """What an assembler asks."""
        return Planning(self.plan, self.message_plan, self.message_source(), self._catalog.announce)

    def plan(self, relation: Relation) -> TablePlan | DatedPlan | None:
        """The plan of a relation; ``None`` when no handler wants any of its events.

        A composite type can be altered while tables use it. Neither values nor a Relation message show it;
        so a plan that has one is dated, with another beside it that leaves such values Postgres' text. The other is
        used unless all alterations are known to have ended before the transaction began.

        Raises:
            PostgresUnavailable: the catalog can't be asked.
        """
        table = Table(relation.namespace, relation.name)
        # A publication FOR ALL TABLES has our own too: a dead letter about a dead letter would never end.
        if table.schema == OWN_SCHEMA or not self.settings.subscribes_to(table):
            return None
        if not any(handler.wants(table, kind) for handler in self._handlers for kind in OF_TABLES):
            return None
        read_at = self._catalog.wal_lsn()
        columns, definitions = self._catalog.columns(relation)
        key, old_rows = self._key(relation), self._old_rows(relation)
        if not _composites_in(definitions):
            return self._plan_of(relation, columns, key, old_rows, definitions)
        while True:
            composites = self._catalog.composites(relation)
            altered = self._catalog.altered(composites, self._slot())
            before, (columns, definitions) = (columns, definitions), self._catalog.columns(relation)
            if (columns, definitions) == before:  # they are those of the alterations that were seen
                break
        make = partial(self._plan_of, relation, columns, key, old_rows)
        as_text = {
            name: TypeDefinition("base", delimiter=definitions[name].delimiter)
            for name in _composites_in(definitions)
        }
        return DatedPlan(
            read_at,
            altered.may_follow,
            make(definitions),
            make({**definitions, **as_text}),
            *self._watch(composites, altered),
        )

    def _slot(self) -> str | None:
        """The slot, unless what is read now may have been acknowledged before: a spool's rows are."""
        stores = hasattr(self.settings.message_middleware, "change_source")
        return None if stores else self.settings.slot

    def _watch(
        self, composites: list[int], before: Altered
    ) -> tuple[Callable[[], Lsn | None], Callable[[], bool]]:
        """A look whether the types are what they were: up to where they were, or ``None`` if not; and when it is due.

        One round trip, where a new plan takes eight. Once a second it is due, if more may be known of alterations.
        """
        seen = before.wal_lsn
        next_at = time.monotonic() + 1 if before.uncertain else math.inf

        def is_due() -> bool:
            return time.monotonic() >= next_at

        def unaltered() -> Lsn | None:
            nonlocal seen, next_at
            xids, now = self._catalog.altering(composites)
            until, seen = seen, now
            if xids != before.xids:
                return None
            if is_due():
                next_at = time.monotonic() + 1
                if not self._catalog.altered(composites, self._slot()).is_as(before):
                    return None
            return until

        return unaltered, is_due

    def _plan_of(
        self,
        relation: Relation,
        columns: dict[str, str],
        key: tuple[str, ...],
        old_rows: OldRows,
        definitions: dict[str, TypeDefinition],
    ) -> TablePlan:
        table = Table(relation.namespace, relation.name)
        shape = Shape(columns, definitions, self.settings.numbers)
        tally = self._statistics.tally
        source = Source(
            SOURCE_NAME,
            VERSION,
            self.settings.database,
            relation.namespace,
            relation.name,
            columns,
            key,
            definitions,
            self.settings.numbers,
        )
        return TablePlan(
            source,
            shape,
            {
                kind: route_of(self._handlers, table, kind, shape, tally(table.schema, table.name, kind))
                for kind in OF_TABLES
            },
            old_rows,
        )

    def _key(self, relation: Relation) -> tuple[str, ...]:
        # With FULL, and with NOTHING, the stream marks no column or all of them; the primary key says more.
        if relation.replica_identity in "fn":
            return self._catalog.primary_key(relation)
        return tuple(column.name for column in relation.columns if column.key)

    def _old_rows(self, relation: Relation) -> OldRows:
        if relation.replica_identity != "f":
            return OldRows.WHOLE
        partitioned = self._catalog.is_partitioned(relation)
        if partitioned is None:
            return OldRows.OF_GONE_TABLE
        return OldRows.BY_PARTITION if partitioned else OldRows.WHOLE

    def message_plan(self, prefix: str) -> Route:
        """Who wants messages with *prefix*."""
        return message_route(self._handlers, prefix, self._statistics.tally("", "", MESSAGE.name))

    def message_source(self) -> Source:
        """The source of events made of messages: the database, no table."""
        return Source(SOURCE_NAME, VERSION, self.settings.database, "", "", {})


def _composites_in(definitions: Mapping[str, TypeDefinition]) -> list[str]:
    return [name for name, definition in definitions.items() if definition.kind == "composite"]
