"""Task ids: the same for every delivery of the same event to the same function (promise 3).

A UUID version 8 (RFC 9562, section 5.8) with the position in plain sight, so that ids sort as events happened
and lead back to the WAL without a lookup:

    LLLLLLLL-LLLL-8LLL-VIII-IIIIIDDDDDDD   60 bits commit LSN, 32 bits index, 30 bits digest

The digest is of system identifier, instance name and function name. After a failover, a position may be that of another
transaction: ids of a later timeline than the first have the timeline mixed in (:func:`timeline_salt`).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final
from uuid import UUID

import msgspec

from walex_celery.postgres.lsn import Lsn
from walex_celery.postgres.timeline import FIRST_TIMELINE

_DIGEST_BITS: Final = 30
_INDEX_MASK: Final = 0xFFFFFFFF
_VARIANT: Final = 0b10 << 62
# Odd, so that no two timelines have the same salt; 2**30 over the golden ratio, so that near ones differ much.
_SALT_FACTOR: Final = 0x278DDE6D


class TaskPosition(msgspec.Struct, frozen=True):
    """What a task's id is made of: the transaction's commit LSN, the event's index in it, and the function's digest.

    The digest is XORed with the salt of the transaction's timeline.
    """

    lsn: Lsn
    index: int
    digest: int


def function_digest(system_identifier: int, instance: str, function: str) -> int:
    """The part of a task's id that is different for each function, instance and cluster."""
    names = f"{system_identifier}\0{instance}\0{function}".encode()
    return int.from_bytes(blake2b(names, digest_size=4).digest(), "big") >> (32 - _DIGEST_BITS)


def timeline_salt(timeline: int) -> int:
    """The number that the digest is XORed with in the ids of *timeline*'s tasks; 0 for the first timeline.

    >>> timeline_salt(1), timeline_salt(2)
    (0, 663608941)
    """
    return (timeline - FIRST_TIMELINE) * _SALT_FACTOR & ((1 << _DIGEST_BITS) - 1)


def task_id_prefix(lsn: int) -> str:
    """The first half of the ids of a transaction's tasks."""
    # %, because an f-string with a format takes three times as long: these two are made for each task.
    return "%08x-%04x-8%03x-" % (lsn >> 28 & 0xFFFFFFFF, lsn >> 12 & 0xFFFF, lsn & 0xFFF)  # noqa: UP031


def task_id(prefix: str, index: int, digest: int) -> str:
    """The id of one task; *prefix* as :func:`task_id_prefix` gave it.

    >>> task_id(task_id_prefix(Lsn.parse("0/16B3748")), 2, 5)
    '00000000-16b3-8748-8000-000080000005'
    """
    low = _VARIANT | (index & _INDEX_MASK) << _DIGEST_BITS | digest
    return "%s%04x-%012x" % (prefix, low >> 48, low & 0xFFFFFFFFFFFF)  # noqa: UP031


def parse_task_id(text: str) -> TaskPosition:
    """The position that a task's id names.

    Raises:
        ValueError: it is not an id of ours.

    >>> parse_task_id("00000000-16b3-8748-8000-000080000005")
    TaskPosition(lsn=Lsn('0/16B3748'), index=2, digest=5)
    """
    try:
        value = UUID(text)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is no UUID; a task id looks like {UUID(int=0)}") from None
    if value.version != 8:
        raise ValueError(
            f"{text!r} is not the id of a task that walex enqueued (those are UUIDs of version 8)"
        )
    high = value.int >> 64
    low = value.int & ((1 << 62) - 1)
    return TaskPosition(
        Lsn((high >> 16) << 12 | (high & 0xFFF)), low >> _DIGEST_BITS, low & ((1 << _DIGEST_BITS) - 1)
    )
