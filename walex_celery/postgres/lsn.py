"""Positions in the write-ahead log."""

from __future__ import annotations

import re

_LSN = re.compile("([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class Lsn(int):
    """A log sequence number: a byte position in the WAL, written ``0/16B3748`` as Postgres writes it.

    An ``int``, so positions compare, sort and subtract (the difference is in bytes).
    Source: manual, section 8.20 "pg_lsn Type".

    >>> Lsn.parse("0/16B3748") + 0
    23803720
    >>> str(Lsn(23803720))
    '0/16B3748'
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """The position that Postgres wrote as *text*; ``ValueError`` if it is none."""
        match = _LSN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:40]!r} is not an LSN; one looks like '0/16B3748'")
        return cls((int(match[1], 16) << 32) | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn({str(self)!r})"
