"""Rows: a mapping that casts what is read, and that never lies about what it does not know (promise 7)."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from kombu.utils.json import dumps

from walex_celery import Record
from walex_celery.events.cells import UNCHANGED, Cell
from walex_celery.events.shape import Shape

SHAPE = Shape({"id": "integer", "name": "text", "active": "bool", "toast": "text"}, {})


def record(*cells: Cell) -> Record:
    return Record(SHAPE, cells)


def test_it_is_a_mapping_of_columns_in_order() -> None:
    row = record(b"1", b"a", b"t", None)

    assert dict(row) == {"id": 1, "name": "a", "active": True, "toast": None}
    assert list(row) == ["id", "name", "active", "toast"]
    assert len(row) == 4
    assert row == {"toast": None, "active": True, "name": "a", "id": 1}
    assert repr(row) == "{'id': 1, 'name': 'a', 'active': True, 'toast': None}"


def test_what_postgres_did_not_send_is_absent() -> None:
    row = record(b"1", b"a", b"t", UNCHANGED)

    assert "toast" not in row
    assert len(row) == 3
    assert row.get("toast", "default") == "default"
    assert row.texts() == {"id": "1", "name": "a", "active": "t"}
    with pytest.raises(KeyError, match="toast"):
        _ = row["toast"]


def test_what_is_no_column_is_absent() -> None:
    row = record(b"1", b"a", b"t", None)

    assert "nope" not in row
    assert not row.__contains__(42)
    with pytest.raises(KeyError, match="nope"):
        _ = row["nope"]


def test_a_value_is_cast_once() -> None:
    shape = Shape({"data": "jsonb"}, {})
    row = Record(shape, [b"[]"])

    row["data"].append(1)

    assert row["data"] == [1]


def test_it_can_not_be_changed() -> None:
    row = record(b"1", b"a", b"t", None)

    with pytest.raises(TypeError):
        row["id"] = 2  # type: ignore[index]
    with pytest.raises(TypeError):
        hash(row)


def test_copies_and_messages_hold_a_dict() -> None:
    """A task may pass a record on."""
    row = record(b"1", b"a", b"t", None)

    assert pickle.loads(pickle.dumps(row)) == copy.deepcopy(row) == dict(row)
    assert json.loads(dumps({"row": row})) == {"row": dict(row)}
