"""The relations that the stream has described, and which of them are partitions.

With ``publish_via_partition_root`` Postgres sends a partition's rows as those of its root, but describes both before
the partition's first row: the root, and right after it the partition. (``maybe_send_schema`` of pgoutput.c. The
manual does not say so.) That is how the stream tells a partition's own replica identity, at the time of its rows.
The catalog only has that of today, and nothing of partitions that are gone.
"""

from __future__ import annotations

from collections.abc import Iterator

from walex_celery.postgres.pgoutput import Relation

#: Where in the stream a Relation message stands: the Begin of its transaction, and the changes since.
Place = tuple[bytes, int]


class Relations:
    """The newest description of each relation, by oid."""

    def __init__(self) -> None:
        self._by_oid: dict[int, Relation] = {}
        self._partitions: dict[int, set[int]] = {}
        self._last: tuple[int, Place | None] = (0, None)
        # Those that a spool repeats, in another order, before what it has stored: by their columns, which a partition
        # shares with its root.
        self._repeated: dict[frozenset[str], set[int]] = {}

    def __getitem__(self, oid: int) -> Relation:
        return self._by_oid[oid]

    def __iter__(self) -> Iterator[Relation]:
        return iter(list(self._by_oid.values()))

    def note(self, relation: Relation, place: Place | None) -> set[int]:
        """Remember *relation*, described at *place* (``None``: outside a transaction).

        Returns:
            Those of which :meth:`partitions_are_full` may have changed.
        """
        oid = relation.oid
        self._by_oid[oid] = relation
        affected = {oid, *(root for root, partitions in self._partitions.items() if oid in partitions)}
        last, last_place = self._last
        self._last = oid, place
        if place is None:
            alike = self._repeated.setdefault(_names(relation), set())
            alike.add(oid)
            if relation.replica_identity != "f":
                affected |= alike
        elif place == last_place and last != oid:
            self._partitions.setdefault(last, set()).add(oid)
            affected.add(last)
        return affected

    def note_truncated(self, oid: int) -> set[int]:
        """A TRUNCATE names relations that were described one after another; it never names a partition of a root.

        Returns:
            As :meth:`note`.
        """
        affected = {root for root, partitions in self._partitions.items() if oid in partitions}
        for root in affected:
            self._partitions[root].discard(oid)
        return affected

    def partitions_are_full(self, oid: int) -> bool | None:
        """Whether all partitions that the stream has described have REPLICA IDENTITY FULL; ``None`` without any."""
        partitions = set(self._partitions.get(oid, ()))
        repeated = self._repeated.get(_names(self._by_oid[oid]), set())
        if oid in repeated:
            partitions |= repeated - {oid}
        return all(self._by_oid[part].replica_identity == "f" for part in partitions) if partitions else None


def _names(relation: Relation) -> frozenset[str]:
    return frozenset(column.name for column in relation.columns)
