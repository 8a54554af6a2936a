"""Whether a stream is of the history that was read before, decided without a server (promise 1)."""

from __future__ import annotations

from itertools import chain

import pytest

from tests import messages as m
from tests.sources.spool.support import of, transaction
from walex_celery import Lsn, StreamMessage
from walex_celery.sources.history import Landmark, OtherHistory, Search, checksum_of, newest_of

USERS = m.relation(1, "users", [("id", m.INT4)])


def message(lsn: int, content: bytes = b"x") -> bytes:
    return m.message("audit", content, transactional=False, lsn=lsn)


def landmark_of(payload: bytes) -> Landmark:
    found = Landmark.of(payload, 7)
    assert found is not None
    return found


def searching(payload: bytes, done: int = 0) -> Search:
    return Search(done, landmark_of(payload), describes=True)


@pytest.mark.parametrize("landmark", [m.begin(292), message(300)], ids=["transaction", "message"])
def test_what_comes_again_is_found_and_dropped(landmark: bytes) -> None:
    again = transaction(300) if landmark == m.begin(292) else of(landmark)
    new = transaction(400)
    search = searching(landmark, 300)

    assert search.new_of(transaction(200), 200) == []
    assert search.landmarks, "nothing may be acknowledged yet"
    assert search.new_of(again, 300) == []
    assert not search.landmarks
    assert not search.is_over
    assert search.new_of(new, 400) == new
    assert search.is_over


@pytest.mark.parametrize(
    "instead",
    [
        of(m.begin(292, xid=743)),
        of(m.begin(292, microseconds=1)),
        of(m.begin(293)),
        of(message(293)),
        of(m.begin(200), m.commit(200, 208), m.begin(300)),
    ],
    ids=[
        "another xid",
        "another time",
        "a later transaction",
        "a later message",
        "a later one after an earlier",
    ],
)
def test_what_comes_instead_is_another_history(instead: list[StreamMessage]) -> None:
    search = searching(m.begin(292), 300)

    with pytest.raises(OtherHistory, match="transaction 742 at 0/124 is not in it any more"):
        search.new_of(instead, 0)


@pytest.mark.parametrize("instead", [message(300, b"y"), message(301), m.begin(300)])
def test_a_message_is_a_landmark_too(instead: bytes) -> None:
    search = searching(message(300))

    assert search.new_of(of(m.begin(299)), 300) == of(m.begin(299))
    with pytest.raises(OtherHistory, match="the message at 0/12C is not"):
        search.new_of(of(instead), 0)


def test_a_message_that_ends_where_the_commit_record_begins_comes_before_it() -> None:
    search = searching(m.begin(292), 300)

    assert search.new_of(of(message(292), m.begin(292)), 292) == []
    assert not search.landmarks


def test_a_server_that_has_read_past_it_does_not_have_it() -> None:
    """Nothing that is published need come after it: the WAL's end in a keepalive tells."""
    search = searching(m.begin(292), 300)

    assert search.new_of([], 292) == []
    with pytest.raises(OtherHistory):
        search.new_of([], 293)


def test_what_describes_the_tables_of_later_rows_is_kept() -> None:
    """Postgres sends it once a connection."""
    search = searching(m.begin(292), 300)
    known, new = transaction(300, describes=USERS), transaction(400)

    assert [found.payload for found in search.new_of(known + new, 400)] == [
        USERS,
        *(found.payload for found in new),
    ]


def test_where_nothing_was_done_all_is_new_while_it_is_searched() -> None:
    search = searching(m.begin(292))

    assert search.new_of(transaction(200), 200) == transaction(200)
    assert search.new_of(transaction(300), 300) == transaction(300)
    assert search.is_over


def test_the_newest_is_what_begins_last() -> None:
    whole = [found.payload for found in chain(transaction(200), transaction(300))]

    assert newest_of(whole) == m.begin(292)
    assert newest_of([*whole, m.begin(392)]) == m.begin(392)
    assert newest_of([*whole, message(310)]) == message(310)
    assert newest_of([*whole, m.begin(392), m.message("audit", b"", transactional=True, lsn=1)]) == m.begin(
        392
    )
    assert newest_of([m.insert(1, b"1"), b""]) is None


def test_a_landmark_is_stored_as_text() -> None:
    for payload in (m.begin(2**40, microseconds=-5), message(300)):
        assert Landmark.parse(str(landmark_of(payload))) == landmark_of(payload)
    assert Landmark.parse("") is None
    assert Landmark.parse("0/0 1 2") is None
    assert Landmark.of(m.insert(1, b"1"), 7) is None
    assert landmark_of(m.begin(292)) == Landmark(Lsn(292), 742, 0, 7)


def test_other_publications_are_other_landmarks() -> None:
    assert checksum_of(["a", "b"]) == checksum_of(["b", "a"])
    assert checksum_of(["a", "b"]) != checksum_of(["ab"])


def test_a_slot_that_has_passed_it_does_not_send_it() -> None:
    assert landmark_of(m.begin(292)).follows(Lsn(292))
    assert not landmark_of(m.begin(292)).follows(Lsn(293))
    assert landmark_of(message(300)).follows(Lsn(299))
    assert not landmark_of(message(300)).follows(Lsn(300))
