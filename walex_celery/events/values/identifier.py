"""Identifiers of things and places: network addresses, UUIDs."""

from __future__ import annotations

import ipaddress
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_network
from uuid import UUID

import msgspec

from walex_celery.events.values.definition import Caster
from walex_celery.events.values.text import or_text


class IPv4Interface(ipaddress.IPv4Interface):
    """As the standard library's, and a host (``/32``, which Postgres leaves out) is equal to its address."""

    def __eq__(self, other: object) -> bool:
        if type(other) is IPv4Address and self.network.prefixlen == self.max_prefixlen:
            return IPv4Address.__eq__(self, other)
        return super().__eq__(other)

    def __hash__(self) -> int:
        return (
            IPv4Address.__hash__(self) if self.network.prefixlen == self.max_prefixlen else super().__hash__()
        )


class IPv6Interface(ipaddress.IPv6Interface):
    """As :class:`IPv4Interface`; a host is a ``/128``."""

    def __eq__(self, other: object) -> bool:
        if type(other) is IPv6Address and self.network.prefixlen == self.max_prefixlen:
            return IPv6Address.__eq__(self, other)
        return super().__eq__(other)

    def __hash__(self) -> int:
        return (
            IPv6Address.__hash__(self) if self.network.prefixlen == self.max_prefixlen else super().__hash__()
        )


def _interface(text: str) -> IPv4Interface | IPv6Interface:
    return IPv6Interface(text) if ":" in text else IPv4Interface(text)


#: inet: an address with the network it is in. The slowest of all casters, 6 µs, all of it ipaddress's own.
cast_inet: Caster = or_text(_interface, ValueError)

cast_cidr: Caster = or_text(ip_network, ValueError)

#: uuid, made in C by msgspec: 0.5 µs where UUID(text) takes 1. (Its errors are ValueErrors only since 0.21.)
cast_uuid: Caster = or_text(partial(msgspec.convert, type=UUID), ValueError, msgspec.MsgspecError)
