"""Positions in the write-ahead log, as Postgres writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import Database
from walex_celery import Lsn


@given(st.integers(0, 2**64 - 1))
def test_what_is_written_is_read(position: int) -> None:
    assert Lsn.parse(str(Lsn(position))) == position


def test_positions_compare_sort_and_subtract() -> None:
    first, second = Lsn.parse("0/FFFFFFFF"), Lsn.parse("1/0")

    assert sorted([second, first]) == [first, second]
    assert second - first == 1
    assert repr(first) == "Lsn('0/FFFFFFFF')"


def test_either_case_is_read() -> None:
    assert Lsn.parse("a/bC") == 0xA_0000_00BC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "0",
        "0/",
        "/0",
        "0/0/0",
        "-1/0",
        "+1/0",
        "0x1/2",
        "1_0/0",
        " 0/0",
        "0/0\n",
        "123456789/0",
        "٣/٣",
    ],
)
def test_what_postgres_would_not_write_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="is not an LSN; one looks like"):
        Lsn.parse(text)


def test_postgres_agrees(database: Database) -> None:
    position = 0x1_0A0B_0C0D
    rows = database.execute("SELECT %s::pg_lsn - '0/0', '0/0'::pg_lsn + %s", [str(Lsn(position)), position])

    assert rows == [(position, str(Lsn(position)))]
