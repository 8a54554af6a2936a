"""Which relations are partitions, by the order in which the stream describes them (promise 7)."""

from __future__ import annotations

from walex_celery.pipeline.relations import Relations
from walex_celery.postgres.pgoutput import Column, Relation

AT = (b"begin", 0)
LATER = (b"begin", 1)


def described(oid: int, identity: str, columns: str = "ab") -> Relation:
    made = tuple(Column(key=True, name=name, type_oid=25, type_modifier=-1) for name in columns)
    return Relation(oid, "public", f"t{oid}", identity, made)


def test_what_follows_at_the_same_place_is_a_partition() -> None:
    relations = Relations()
    relations.note(described(1, "f"), AT)
    assert relations.partitions_are_full(1) is None

    assert relations.note(described(2, "f"), AT) == {1, 2}
    assert relations.partitions_are_full(1) is True

    relations.note(described(1, "f"), LATER)
    assert relations.note(described(3, "i"), LATER) == {1, 3}
    assert relations.partitions_are_full(1) is False

    # It is described again when its identity has changed, its root with it.
    relations.note(described(1, "f"), (b"next", 0))
    relations.note(described(3, "f"), (b"next", 0))
    assert relations.partitions_are_full(1) is True


def test_what_is_described_after_another_change_is_none() -> None:
    relations = Relations()
    relations.note(described(1, "f"), AT)
    relations.note(described(2, "d"), LATER)
    relations.note(described(3, "d"), (b"next", 1))

    assert relations.partitions_are_full(1) is None


def test_tables_that_are_truncated_together_are_no_partitions() -> None:
    relations = Relations()
    for oid, identity in ((1, "f"), (2, "d"), (3, "d")):
        relations.note(described(oid, identity), AT)

    assert relations.note_truncated(1) == set()
    assert relations.note_truncated(2) == {1}
    assert relations.partitions_are_full(1) is None


def test_descriptions_that_a_spool_repeats_are_told_by_their_columns() -> None:
    """It has them in another order; a partition has its root's columns, in any order."""
    relations = Relations()
    relations.note(described(3, "d", "xyz"), None)
    relations.note(described(2, "i", "ba"), None)
    relations.note(described(1, "f"), None)
    assert relations.partitions_are_full(1) is False

    assert relations.note(described(2, "f", "ba"), None) >= {2}
    assert relations.partitions_are_full(1) is True
