"""Promise 7: a type's name, with the definitions that came with it, gives its caster."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from tests.events.values.printer import DEFINITIONS
from walex_celery.events.values import TypeDefinition, caster


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("public.cents", "42", 42),
        ("public.more_cents", "42", 42),
        ("public.flag", "t", True),
        ("public.document", "[1]", [1]),
        ("public.more_cents[]", "{1,NULL}", [1, None]),
        ("sales.order_status", "new", "new"),
        ("public.no_such_type", "(1,2)", "(1,2)"),
        ("public.no_such_type[]", "{a}", ["a"]),
        ("no_such_type", "x", "x"),
        ("numeric[]", "{1.10}", [Decimal("1.10")]),
        ("_numeric", "{1.10}", [Decimal("1.10")]),
        ("integer[][]", "{{1},{2}}", [[1], [2]]),
        ("_no_such_type", "{a}", "{a}"),
        ("", "x", "x"),
        ("[]", "{x}", ["x"]),
    ],
)
def test_names(name: str, text: str, value: object) -> None:
    assert caster(name, DEFINITIONS)(text) == value


def test_a_user_type_with_the_name_of_a_built_in_one_is_another() -> None:
    definitions = {'sales."integer"': TypeDefinition("enum"), 'sales."odd[]"': TypeDefinition("enum")}

    assert caster('sales."integer"', definitions)("42") == "42"
    assert caster('sales."odd[]"', definitions)("{1}") == "{1}"


def test_the_same_definitions_give_the_same_caster() -> None:
    assert caster("public.nested", DEFINITIONS) is caster("public.nested", dict(DEFINITIONS))
    assert caster("text[]") is caster("text[]", DEFINITIONS)


def test_altered_definitions_give_another_caster() -> None:
    before = {"public.price": TypeDefinition("domain", base="integer")}
    after = {"public.price": TypeDefinition("domain", base="numeric")}

    assert caster("public.price", before)("1") == 1
    assert type(caster("public.price", after)("1")) is Decimal


def test_definitions_go_through_json() -> None:
    text = msgspec.json.encode(DEFINITIONS)

    assert msgspec.json.decode(text, type=dict[str, TypeDefinition]) == DEFINITIONS


def test_a_base_type_may_have_a_delimiter_of_its_own() -> None:
    definitions = {
        "public.shape": TypeDefinition("base", delimiter=";"),
        "public.good_shape": TypeDefinition("domain", base="public.shape"),
        "public.shapes": TypeDefinition("domain", base="public.shape[]"),
    }

    for name in ("public.shape[]", "public.good_shape[]", "public.shapes"):
        assert caster(name, definitions)("{1,2;3,4}") == ["1,2", "3,4"]


def test_definitions_that_contain_themselves_end_in_text() -> None:
    definitions = {
        "a.a": TypeDefinition("domain", base="a.b"),
        "a.b": TypeDefinition("domain", base="a.a[]"),
        "a.c": TypeDefinition("composite", fields=(("c", "a.c[]"),)),
    }

    assert caster("a.a", definitions)("x") == "x"
    assert caster("a.b[]", definitions)("{x}") == ["x"]
    assert caster("a.c", definitions)('("{(x)}")') == {"c": ["(x)"]}
