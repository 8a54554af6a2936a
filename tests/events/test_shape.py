"""Rows as JSON: cells that are not as they should be, and columns of any name."""

from __future__ import annotations

import pytest

from walex_celery import DecodeError
from walex_celery.events.cells import UNCHANGED, Awkward, Cell, text_of_cell
from walex_celery.events.shape import Shape

SHAPE = Shape({"id": "integer", "name": "text", "active": "bool", "note": "text"}, {})


def test_the_text_of_cells_that_are_not_utf8() -> None:
    assert text_of_cell("é".encode() + b"\xff") == "é\udcff"


def test_a_bool_that_is_none_is_an_error_not_a_false() -> None:
    """Promise 10: hostile bytes don't become a wrong value."""
    with pytest.raises(DecodeError, match="a bool is t or f"):
        SHAPE.to_json([b"1", b"a", b"x", None])
    with pytest.raises(DecodeError):
        SHAPE.to_json([b"1", b"a", b"x", UNCHANGED])


@pytest.mark.parametrize("name", ["id", "é", "a b", "%b", 'a"b', "a\\b", "a\nb", "class", "\udc80"])
def test_a_column_of_any_name_is_encoded_the_quick_way_or_refused(name: str) -> None:
    shape = Shape({name: "integer", "note": "text"}, {})
    cells: list[Cell] = [b"1", None]
    try:
        quick = shape.quick_json(cells)
    except Awkward:
        assert name in ('a"b', "a\\b", "a\nb", "\udc80")
    else:
        assert quick == shape.to_json(cells)
