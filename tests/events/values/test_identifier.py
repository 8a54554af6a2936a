"""Promise 7: UUIDs and network addresses, or Postgres' own text."""

from __future__ import annotations

import pickle
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address
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

    got = caster("inet")(printer.echo("inet", f"{address}/{bits}"))
    is_host = bits == address.max_prefixlen

    assert got == wanted
    assert wanted == got
    assert repr(got) == repr(wanted)
    assert pickle.loads(pickle.dumps(got)) == got
    assert (got == address) is (address == got) is is_host
    assert (address in {got}) is is_host
    assert (got in {address}) is is_host
    assert got != ip_address(int(address) ^ 1 if address.version == 4 else int(address) ^ (1 << 64))
    assert caster("cidr")(printer.echo("cidr", str(wanted.network))) == wanted.network


@pytest.mark.parametrize("name", ["uuid", "inet", "cidr"])
@pytest.mark.parametrize("text", ["", "x", "1.2.3.4/99", "10.0.0.1/8x", "a0eebc99"])
def test_what_is_none_stays_text(name: str, text: str) -> None:
    assert caster(name)(text) == text
