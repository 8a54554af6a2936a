"""The Redis protocol (RESP, https://valkey.io/topics/protocol/): commands as arrays of bulk strings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from walex_celery._speedups import speedups


def packed_plainly(commands: Iterable[tuple[Any, ...]]) -> bytes:
    """Return commands in the Redis protocol (RESP arrays of bulk strings), as one piece.

    For one write: redis-py packs a long command into pieces of 6 kB, with a system call for each.
    """
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for argument in command:
            if not isinstance(argument, bytes):
                argument = str(argument).encode()  # noqa: PLW2901
            parts += (b"$%d\r\n" % len(argument), argument, b"\r\n")
    return b"".join(parts)


packed = speedups.packed(packed_plainly)
