"""Task ids: the same for every delivery, and they lead back to the WAL (promise 3)."""

from __future__ import annotations

from itertools import product
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walex_celery import Lsn
from walex_celery.events.task_id import (
    TaskPosition,
    function_digest,
    parse_task_id,
    task_id,
    task_id_prefix,
    timeline_salt,
)

LSNS = st.integers(0, 2**60 - 1)
INDEXES = st.integers(0, 2**32 - 1)
DIGESTS = st.integers(0, 2**30 - 1)


@given(LSNS, INDEXES, DIGESTS)
def test_an_id_is_a_uuid_of_version_8_that_tells_its_position(lsn: int, index: int, digest: int) -> None:
    text = task_id(task_id_prefix(lsn), index, digest)

    assert str(UUID(text)) == text
    assert (UUID(text).version, UUID(text).variant) == (8, RFC_4122)
    assert parse_task_id(text) == TaskPosition(Lsn(lsn), index, digest)


@given(st.lists(st.tuples(LSNS, INDEXES), min_size=2, max_size=6))
def test_ids_sort_as_events_happened(positions: list[tuple[int, int]]) -> None:
    ids = [task_id(task_id_prefix(lsn), index, 7) for lsn, index in positions]

    assert sorted(ids) == [task_id(task_id_prefix(lsn), index, 7) for lsn, index in sorted(positions)]


def test_the_digest_tells_clusters_instances_and_functions_apart() -> None:
    digests = {
        function_digest(*parts)
        for parts in product([1, 2], ["shop", "store"], ["shop.tasks.a", "shop.tasks.b"])
    }

    assert len(digests) == 8
    assert function_digest(1, "a", "b") != function_digest(1, "a\0b", ""), "the parts are told apart"


def test_the_digest_never_changes() -> None:
    """A redelivery after an upgrade must carry the same id."""
    assert function_digest(7711385675812776769, "shop", "shop.tasks.welcome") == 437922175


@pytest.mark.parametrize(
    "text", ["", "x", "0a1b2c3d-4e5f-4a6b-8c7d-8e9fa0b1c2d3", "00000000-16b3-8748-0000-000080000005"]
)
def test_another_id_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        parse_task_id(text)


@given(st.integers(1, 2**30), st.integers(1, 2**30), DIGESTS)
def test_what_two_timelines_have_at_one_position_never_has_one_id(a: int, b: int, digest: int) -> None:
    ids = {task_id(task_id_prefix(7), 0, digest ^ timeline_salt(timeline)) for timeline in (a, b)}

    assert len(ids) == len({a, b})


def test_ids_of_the_first_timeline_have_no_salt() -> None:
    assert timeline_salt(1) == 0
