"""pgoutput messages made of their parts, for tests that are about what becomes of them.

``tests/postgres/test_pgoutput.py`` has each message as literal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack

from walex_celery.events.cells import UNCHANGED, Cell

INT4, TEXT, BOOL, JSON, JSONB, NUMERIC = 23, 25, 16, 114, 3802, 1700

#: The commit record of :func:`begin` and :func:`commit` starts here, and ends there.
COMMIT_LSN, END_LSN = 0x16B3748, 0x16B3778


def begin(lsn: int = COMMIT_LSN, *, microseconds: int = 0, xid: int = 742) -> bytes:
    return b"B" + pack("!QqI", lsn, microseconds, xid)


def commit(lsn: int = COMMIT_LSN, end_lsn: int = END_LSN) -> bytes:
    return b"C" + pack("!BQQq", 0, lsn, end_lsn, 0)


def relation(
    oid: int,
    name: str,
    columns: Sequence[tuple[str, int]],
    *,
    schema: str = "public",
    identity: str = "f",
    key: Sequence[str] = (),
) -> bytes:
    parts = [b"R", pack("!I", oid), schema.encode() + b"\0", name.encode() + b"\0", identity.encode()]
    parts.append(pack("!H", len(columns)))
    for column, type_oid in columns:
        is_key = identity == "f" or column in key
        parts += (
            bytes([is_key]),
            column.encode("utf-8", "surrogateescape") + b"\0",
            pack("!Ii", type_oid, -1),
        )
    return b"".join(parts)


def row(cells: Sequence[Cell]) -> bytes:
    parts = [pack("!H", len(cells))]
    for cell in cells:
        if cell is None:
            parts.append(b"n")
        elif cell is UNCHANGED:
            parts.append(b"u")
        else:
            parts += (b"t", pack("!I", len(cell)), cell)
    return b"".join(parts)


def insert(oid: int, *cells: Cell) -> bytes:
    return b"I" + pack("!I", oid) + b"N" + row(cells)


def update(
    oid: int, new: Sequence[Cell], *, old: Sequence[Cell] | None = None, key: Sequence[Cell] | None = None
) -> bytes:
    before = b"O" + row(old) if old is not None else b"K" + row(key) if key is not None else b""
    return b"U" + pack("!I", oid) + before + b"N" + row(new)


def delete(oid: int, *, old: Sequence[Cell] | None = None, key: Sequence[Cell] = ()) -> bytes:
    return b"D" + pack("!I", oid) + (b"O" + row(old) if old is not None else b"K" + row(key))


def truncate(*oids: int, options: int = 0) -> bytes:
    return b"T" + pack("!IB", len(oids), options) + b"".join(pack("!I", oid) for oid in oids)


def message(prefix: str, content: bytes, *, transactional: bool = True, lsn: int = COMMIT_LSN) -> bytes:
    head = pack("!BQ", transactional, lsn) + prefix.encode() + b"\0"
    return b"M" + head + pack("!I", len(content)) + content
