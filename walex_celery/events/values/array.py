"""Arrays of any type, as array_out of arrayfuncs.c prints them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Self

from walex_celery.events.values.definition import Caster

_BOUNDS = re.compile(r"((?:\[[+-]?\d{1,10}:[+-]?\d{1,10}\])+)=(?=\{)", re.ASCII)
_LOWER = re.compile(r"\[([+-]?\d+):")


class BoundedArray(str):
    """Postgres' text of an array whose lower bounds are not 1 (``[0:1]={7,8}``), which a list would lose.

    It is text, but iterating over it gives the elements, not characters.

    Attributes:
        elements: nested lists, as of any other array.
        lower_bounds: of each dimension.
    """

    elements: list[Any]
    lower_bounds: tuple[int, ...]

    def __new__(cls, text: str, elements: list[Any], lower_bounds: tuple[int, ...]) -> Self:
        """Make it of Postgres' text, and of what that says."""
        made = super().__new__(cls, text)
        made.elements = elements
        made.lower_bounds = lower_bounds
        return made

    def __iter__(self) -> Iterator[Any]:
        return iter(self.elements)

    def __contains__(self, item: object) -> bool:
        return item in self.elements

    def __getnewargs__(self) -> tuple[Any, ...]:
        return str(self), self.elements, self.lower_bounds


def array_caster(element: Caster, delimiter: str = ",") -> Caster:
    """Return the caster of an array: nested lists, with None for NULL.

    An array whose lower bounds are not 1 (``[0:1]={7,8}``) stays text, a :class:`BoundedArray`.
    """
    between = re.escape(delimiter)
    # A quote without its end takes all that follows: in linear time, and the lists stay open.
    token = re.compile(rf'"[^"\\]*(?:\\.[^"\\]*)*"?|[{{}}]|{between}|[^"\\{{}}{between}]+', re.DOTALL)

    def cast(text: str) -> Any:
        # One dimension and nothing quoted, as nearly all are: a split is three times faster than tokens.
        quoted = '"' in text or "\\" in text
        if not quoted and text.rfind("{") == 0 and text.find("}") == len(text) - 1:
            if text == "{}":
                return []
            items = text[1:-1].split(delimiter)
            if "NULL" in items:
                return [None if item == "NULL" else element(item) for item in items]
            return [*map(element, items)]
        bounds = _BOUNDS.match(text) if text[:1] == "[" else None
        if bounds is None:
            return _nested(text, token.findall(text), element, delimiter)
        elements = cast(text[bounds.end() :])
        if not isinstance(elements, list):
            return text
        return BoundedArray(text, elements, tuple(map(int, _LOWER.findall(bounds[1]))))

    return cast


def _nested(text: str, tokens: list[str], element: Caster, delimiter: str) -> Any:
    """Build the lists from the tokens of an array; malformed: the text."""
    if not text.startswith("{") or sum(map(len, tokens)) != len(text):
        return text
    root: list[Any] = []
    stack = [root]
    for token in tokens:
        match token[0]:
            case "{":
                inner: list[Any] = []
                stack[-1].append(inner)
                stack.append(inner)
            case "}":
                stack.pop()
                if not stack:
                    return text
            case '"':
                stack[-1].append(element(unescape(token[1:-1])))
            case first if first == delimiter:
                pass
            case _:
                stack[-1].append(None if token == "NULL" else element(token))
    return root[0] if len(stack) == 1 and len(root) == 1 else text


_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def unescape(quoted: str) -> str:
    """Take the backslashes out of what stood in double quotes."""
    return _ESCAPED.sub(r"\1", quoted) if "\\" in quoted else quoted
