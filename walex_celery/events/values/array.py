"""Arrays of any type, as array_out of arrayfuncs.c prints them."""

from __future__ import annotations

import re
from typing import Any

from walex_celery.events.values.definition import Caster


def array_caster(element: Caster, delimiter: str = ",") -> Caster:
    """Return the caster of an array: nested lists, with None for NULL.

    An array whose lower bounds are not 1 (``[0:1]={7,8}``) stays text: a list would lose them.
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
        return _nested(text, token.findall(text), element, delimiter)

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
