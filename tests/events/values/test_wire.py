"""DESIGN section 4: values go out as Postgres printed them, but for what JSON holds exactly."""

from __future__ import annotations

import pytest

from tests.events.values.printer import DEFINITIONS
from walex_celery.events.values import TypeDefinition, Wire, wire_form


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, Wire.RAW) for name in ("smallint", "integer", "bigint", "int2", "int4", "int8", "oid")),
        *(
            (name, Wire.RAW)
            for name in ("json", "jsonb", "public.cents", "public.more_cents", "public.document")
        ),
        *((name, Wire.BOOL) for name in ("bool", "public.flag")),
        *((name, Wire.TEXT) for name in ("numeric", "float8", "float4", "text", "xid", "xid8", "money")),
        *((name, Wire.TEXT) for name in ("integer[]", "bool[]", "jsonb[]", "_int4", "public.cents[]")),
        *((name, Wire.TEXT) for name in ("public.nested", "sales.order_status", "public.grid", "no.such")),
    ],
)
def test_forms(name: str, form: Wire) -> None:
    assert wire_form(name, DEFINITIONS) is form


def test_domains_over_each_other_are_text() -> None:
    definitions = {
        "a.a": TypeDefinition("domain", base="a.b"),
        "a.b": TypeDefinition("domain", base="a.a"),
    }

    assert wire_form("a.a", definitions) is Wire.TEXT
