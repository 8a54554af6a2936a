"""Damage done to messages and streams: the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

#: Counts and lengths that lie, as two and four bytes.
_LENGTHS: Final = [
    number.to_bytes(size, "big")
    for size in (2, 4)
    for number in (0, 1, 2, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    if number < 256**size
]
_KINDS: Final = b"BCORYIUDTMKONntubxX\0\xff"


_NOISE: Final = [
    b"\0", b"{", b"}", b"[", b"]", b"(", b")", b'"', b"\\", b",", b"-", b"9", b"e", b"t", b"\xff", b"\xc3", b" ", b":",
    b"NULL", b"infinity", b'{"', b'("', b"[[", b"\\u", b"\\x", b"'", b"/", b".", b"99999999999", b"\xed\xb2\x80",
]  # fmt: skip


class Mutator:
    """Makes inputs of the messages of a recorded stream."""

    def __init__(self, messages: Sequence[bytes], seed: int) -> None:
        self._messages = messages
        self._random = random.Random(seed)
        kinds: dict[int, list[bytes]] = {}
        for message in messages:
            kinds.setdefault(message[0], []).append(message)
        self._kinds = list(kinds.values())
        self._relations = {message[1:5]: message for message in messages if message[:1] == b"R"}
        self._transactions: list[list[bytes]] = []
        for message in messages:
            if message[:1] == b"B" or not self._transactions:
                self._transactions.append([])
            self._transactions[-1].append(message)

    def message(self) -> bytes:
        """A recorded message, of each kind as often as of any other, with one to four damages."""
        below = self._random.random
        messages = self._kinds[int(below() * len(self._kinds))]
        payload = messages[int(below() * len(messages))]
        for _ in range(1 + int(below() * below() * 4)):
            payload = self._damaged(payload)
        return payload

    def stream(self) -> list[bytes]:
        """A few transactions with messages damaged, lost, doubled, swapped, or of elsewhere."""
        below = self._random.random
        first = int(below() * len(self._transactions))
        stream = [message for part in self._transactions[first : first + 3] for message in part]
        # What the stream said long before, and need not repeat.
        known = {message[1:5] for message in stream if message[:1] in b"IUD"} & self._relations.keys()
        for oid in known:
            stream.insert(1, self._relations[oid])
        for _ in range(1 + int(below() * 3)):
            place = int(below() * len(stream))
            match int(below() * 10):
                case 0:
                    del stream[place : place + 1 + int(below() * 3)]
                case 1:
                    stream.insert(place, stream[place])
                case 2:
                    stream.insert(place, self._messages[int(below() * len(self._messages))])
                case 3:
                    other = int(below() * len(stream))
                    stream[place], stream[other] = stream[other], stream[place]
                case 4 | 5:
                    stream[place] = self._damaged(stream[place])
                case _:
                    stream[place] = self._other_bytes(stream[place])
            if not stream:
                stream.append(self.message())
        return stream

    def _other_bytes(self, payload: bytes) -> bytes:
        """The same length, other bytes near the end: mostly values that no server prints."""
        below = self._random.random
        place = len(payload) - 1 - int(below() * below() * len(payload))
        noise = _NOISE[int(below() * len(_NOISE))] if below() < 0.7 else self._random.randbytes(3)
        return (payload[:place] + noise)[: len(payload)] + payload[place + len(noise) :]

    def _damaged(self, payload: bytes) -> bytes:
        below = self._random.random
        # Towards the start, where the structure is.
        place = int(below() * below() * len(payload))
        match int(below() * 9):
            case 0:
                return payload[:place]
            case 1:
                return payload[:place] + payload[place + 1 + int(below() * 8) :]
            case 2:
                return payload[:place] + bytes([int(below() * 256)]) + payload[place + 1 :]
            case 3:
                return payload[:place] + bytes([_KINDS[int(below() * len(_KINDS))]]) + payload[place + 1 :]
            case 4 | 5:
                lie = _LENGTHS[int(below() * len(_LENGTHS))]
                return payload[:place] + lie + payload[place + len(lie) :]
            case 6:
                return payload[:place] + self._random.randbytes(1 + int(below() * 8)) + payload[place:]
            case 7:
                other = self._messages[int(below() * len(self._messages))]
                return payload[:place] + other[int(below() * len(other)) :]
            case _:
                end = place + int(below() * 40)
                return payload[:end] + payload[place:]
