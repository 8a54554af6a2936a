"""What a connection sends again is not stored again."""

from __future__ import annotations

from tests import messages as m
from tests.sources.spool.support import of, transaction
from walex_celery.sources.history import Newcomers

USERS = m.relation(1, "users", [("id", m.INT4)])


def test_what_ends_where_the_log_does_is_known() -> None:
    """Also when it comes in several slices; what describes its table was stored with it."""
    known, new = transaction(200, b"1", b"2", describes=USERS), transaction(300)
    newcomers = Newcomers(200)

    assert newcomers.of(transaction(100) + known[:2]) == []
    assert newcomers.of(known[2:] + new[:1]) == new[:1]
    assert newcomers.of(new[1:]) == new[1:]


def test_a_commit_record_that_begins_where_the_log_ends_is_new() -> None:
    """Records follow one another without a gap."""
    newcomers = Newcomers(200)

    assert newcomers.of(transaction(208)) == transaction(208)


def test_messages_outside_of_transactions_are_known_by_their_end() -> None:
    known, new = (of(m.message("audit", b"", transactional=False, lsn=lsn)) for lsn in (200, 250))
    newcomers = Newcomers(200)

    assert newcomers.of(known) == []
    assert newcomers.of(new) == new
    assert newcomers.of(known) == known, "Postgres sends nothing out of order"


def test_everything_is_new_to_an_empty_log() -> None:
    assert Newcomers(0).of(transaction(100)) == transaction(100)
