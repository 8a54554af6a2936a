"""Promise 7: UUIDs and network addresses, or Postgres' own text."""

from __future__ import annotations

import pickle
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.values.printer import Printer
from walex_celery.events.values import caster


@settings(max_examples=200)
@given(value=st.uuids())
def test_a_uuid_is_like_any_other(printer: Printer, value: UUID) -> None:
    got = caster("uuid")(printer.echo("uuid", str(value)))

    assert got == value
    assert (hash(got), got.is_safe, got.version) == (hash(value), value.is_safe, value.version)
    assert pickle.loads(pickle.dumps(got)) == value


@settings(max_examples=200)
@given(address=st.ip_addresses(), data=st.data())
def test_an_inet_keeps_address_and_network(
    printer: Printer, address: IPv4Address | IPv6Address, data: st.DataObject
) -> None:
    bits = data.draw(st.integers(0, address.max_prefixlen))
    wanted = (IPv4Interface if address.version == 4 else IPv6Interface)(f"{address}/{bits}")

    assert caster("inet")(printer.echo("inet", f"{address}/{bits}")) == wanted
    assert caster("cidr")(printer.echo("cidr", str(wanted.network))) == wanted.network


@pytest.mark.parametrize("name", ["uuid", "inet", "cidr"])
@pytest.mark.parametrize("text", ["", "x", "1.2.3.4/99", "10.0.0.1/8x", "a0eebc99"])
def test_what_is_none_stays_text(name: str, text: str) -> None:
    assert caster(name)(text) == text
