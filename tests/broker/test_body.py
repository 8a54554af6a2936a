"""The body's text is what ``json.dumps`` writes, whatever is in it (promise 10)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walex_celery.broker.templates.body import ascii_string


@given(st.text())
def test_any_text_is_as_json_dumps_writes_it(text: str) -> None:
    assert ascii_string(text) == json.dumps(text).encode()


@pytest.mark.parametrize(
    "text", [*map(chr, range(0x21)), '"', "\\", "/", "\x7f", "\x80", "é", "\ud800", "😀", ""]
)
def test_each_special_character_is_as_json_dumps_writes_it(text: str) -> None:
    assert ascii_string(f"a{text}b") == json.dumps(f"a{text}b").encode()
