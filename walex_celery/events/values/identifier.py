"""Identifiers of things and places: network addresses, UUIDs."""

from __future__ import annotations

from functools import partial
from ipaddress import ip_interface, ip_network
from uuid import UUID

import msgspec

from walex_celery.events.values.definition import Caster
from walex_celery.events.values.text import or_text

#: inet: an address with the network it is in. The slowest of all casters, 6 µs, all of it ipaddress's own.
cast_inet: Caster = or_text(ip_interface, ValueError)

cast_cidr: Caster = or_text(ip_network, ValueError)

#: uuid, made in C by msgspec: 0.5 µs where UUID(text) takes 1. (Its errors are ValueErrors only since 0.21.)
cast_uuid: Caster = or_text(partial(msgspec.convert, type=UUID), ValueError, msgspec.MsgspecError)
