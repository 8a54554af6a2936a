"""Tasks and their position, stored by one script: all of it or nothing, and by the one producer that may.

The position is a hash in Redis or Valkey, which never expires:

    owner       the producer that took it over last; another one's tasks are refused
    connection  of the owner, a number; what an earlier connection still has under way is refused
    holder      host and process of the owner, readable
    position    of the last batch stored
    landmark    what that position stands at, behind the position itself: an older version stores only positions, and
                then the landmark left from before is none of theirs
    note        what an owner that ended in order left to the next one

A script, not ``MULTI``: it looks at the owner and at the queues before it writes, where EXEC writes what it can.
Once a script has written, none of its commands is refused for lack of memory (redis.io, "Scripting with Lua").
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from walex_celery.broker.position import Position
from walex_celery.broker.redis.errors import FalseReply
from walex_celery.errors import Fenced

#: An error reply of the scripts begins so.
FENCED: Final = "FENCED"

_CHECK: Final = """
local held = redis.call('HMGET', KEYS[1], 'owner', 'connection', 'holder', 'position')
if held[1] ~= ARGV[1] then return redis.error_reply('FENCED ' .. (held[3] or 'no producer')) end
"""

_TAKE: Final = """
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'connection', ARGV[2], 'holder', ARGV[3])
local found = redis.call('HMGET', KEYS[1], 'position', 'landmark', 'note')
redis.call('HDEL', KEYS[1], 'note')
return found
"""

# A late one, of a connection that was given up, changes nothing.
_RENEW: Final = (
    _CHECK
    + """
if tonumber(ARGV[2]) > tonumber(held[2]) then redis.call('HSET', KEYS[1], 'connection', ARGV[2]) end
return {held[4], redis.call('HGET', KEYS[1], 'landmark')}
"""
)

_LEAVE: Final = _CHECK + "return redis.call('HSET', KEYS[1], 'note', ARGV[2])"

_RESET: Final = (
    _CHECK
    + """
redis.call('HDEL', KEYS[1], 'position', 'landmark')
return 1
"""
)

# KEYS: the position, the queues. ARGV: owner, connection, position, landmark; for each queue how many, and the
# messages; then triples of other commands. unpack() takes some 8,000 values at most.
_STORE: Final = (
    _CHECK
    + """
if held[2] ~= ARGV[2] then return redis.error_reply('FENCED an older connection of ' .. held[3]) end
for i = 2, #KEYS do
  local type = redis.call('TYPE', KEYS[i]).ok
  if type ~= 'list' and type ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is no list but a ' .. type)
  end
end
local at = 5
for i = 2, #KEYS do
  local last = at + ARGV[at]
  for first = at + 1, last, 1000 do
    redis.call('LPUSH', KEYS[i], unpack(ARGV, first, math.min(first + 999, last)))
  end
  at = last + 1
end
for first = at, #ARGV, 3 do redis.call(ARGV[first], ARGV[first + 1], ARGV[first + 2]) end
redis.call('HSET', KEYS[1], 'position', ARGV[3], 'landmark', ARGV[3] .. ' ' .. ARGV[4])
return 1
"""
)


def _position(stored: bytes | None, landmark: bytes | None, note: bytes | None = None) -> Position | None:
    if stored is None:
        return None
    at, _, what = (landmark or b"").decode(errors="replace").partition(" ")
    return Position(
        int(stored), what if at == stored.decode() else "", (note or b"").decode(errors="replace")
    )


class PositionScript:
    """The scripts on one position, which this producer advances until another one takes it over.

    Args:
        key: where it is, with kombu's ``global_keyprefix``.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._owner = uuid4().hex
        self._connection = 0
        self._taken = False

    def open(self, client: Any) -> Position | None:
        """Take it over, or, on a later connection, renew it; return the position stored last.

        Raises:
            Fenced: another producer has taken it over.
        """
        self._connection += 1
        holder = f"{socket.gethostname()} (process {os.getpid()})"
        script, length = (_RENEW, 2) if self._taken else (_TAKE, 3)
        stored = self._ask(client, script, self._connection, holder)
        if not (
            isinstance(stored, list)
            and len(stored) == length
            and all(value is None or isinstance(value, bytes | str) for value in stored)
            and (stored[0] is None or stored[0].isdigit())
        ):
            raise FalseReply(stored, "a number in a string, with what is known of it")
        self._taken = True
        return _position(*stored)

    def reset(self, client: Any) -> None:
        """Forget what was stored.

        Raises:
            Fenced: another producer has taken it over.
        """
        done = self._ask(client, _RESET)
        if type(done) is not int or done != 1:
            # Were it still there, the producer would drop tasks as enqueued already.
            raise FalseReply(done, "the integer 1")

    def leave(self, client: Any, note: str) -> None:
        """Store a note for the next owner.

        Raises:
            Fenced: another producer has taken it over.
        """
        self._ask(client, _LEAVE, note)

    def _ask(self, client: Any, script: str, *arguments: Any) -> Any:
        try:
            return client.execute_command("EVAL", script, 1, self.key, self._owner, *arguments)
        except Exception as error:
            if (fenced := self.fenced(error)) is not None:
                raise fenced from error
            raise

    def store(
        self, position: int, lists: Mapping[str, Sequence[bytes]], others: Sequence[tuple[Any, Any, Any]]
    ) -> tuple[Any, ...]:
        """Return the command that pushes messages to *lists*, runs *others*, and stores *position*."""
        landmark = position.landmark if isinstance(position, Position) else ""
        arguments: list[Any] = [self._owner, self._connection, int(position), landmark]
        for messages in lists.values():
            arguments.append(len(messages))
            arguments.extend(messages)
        for other in others:
            arguments.extend(other)
        return ("EVAL", _STORE, 1 + len(lists), self.key, *lists, *arguments)

    def fenced(self, error: Exception) -> Fenced | None:
        """Return the error to raise for a reply that says that another producer has taken over, if it does."""
        text = str(error)
        if not text.startswith(FENCED):
            return None
        return Fenced(
            f"the position {self.key!r} in the broker is held by {text.removeprefix(FENCED).strip()}: another "
            "producer has taken over, or the key was deleted. What was not confirmed is dropped here, and read from "
            "Postgres again by the producer that has the slot"
        )
