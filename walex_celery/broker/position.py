"""What is stored with tasks in exactly-once mode."""

from __future__ import annotations

from typing import Self


class Position(int):
    """How far tasks are in the broker; grows from batch to batch.

    Attributes:
        landmark: text by which whoever stored it recognises what it stands at; may be empty.
        note: what its last owner left with it at an orderly end; empty otherwise.

    >>> Position(300, "here"), Position(300, "here").landmark
    (300, 'here')
    """

    landmark: str
    note: str

    def __new__(cls, value: int, landmark: str = "", note: str = "") -> Self:
        """The position *value*, and what it stands at."""
        self = super().__new__(cls, value)
        self.landmark = landmark
        self.note = note
        return self
