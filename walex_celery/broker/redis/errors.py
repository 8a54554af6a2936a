"""What Redis' and Valkey's error replies mean: what passes by itself, and what fixes the rest."""

from __future__ import annotations

from walex_celery.broker.link import Link, is_login_error
from walex_celery.errors import PublishRefused

#: Errors that pass by themselves; any other error reply needs an operator.
_PASSING = ("LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "UNBLOCKED")

#: redis-py cuts the code off the errors that it has a class for.
_CODES = {
    "ExecAbortError": "EXECABORT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "NoPermissionError": "NOPERM",
    "AuthenticationError": "NOAUTH",
    "AuthenticationWrongNumberOfArgsError": "NOAUTH",
    "BusyLoadingError": "LOADING",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
}

_FIXES = {
    "OOM": "Free memory on it, raise its maxmemory, or let the workers catch up",
    "READONLY": "It is a replica: point broker_url at the primary",
    "MISCONF": "It can't write to its disk: free space there",
    "NOPERM": (
        "Allow the user all that the producer sends (ACL SETUSER, on the keys of the queues and on _kombu.*): "
        "+@connection +@transaction +@scripting +lpush +llen +sadd +srem +smembers +pexpire +zadd +zrem +zrangebyscore "
        "+del +time +publish; for exactly_once_enqueue also +hget +hmget +hset +hdel +type on walex:*; for remote "
        "control also +subscribe +psubscribe +unsubscribe +punsubscribe +brpop on all channels (&*)"
    ),
    "NOAUTH": "Correct the password in broker_url",
    "WRONGTYPE": "The queue's key holds something else: choose another queue name or database",
}


#: The error reply to a message over proto-max-bulk-len.
_TOO_LARGE = "Protocol error: invalid bulk length"
RAISE_LIMIT = "CONFIG SET proto-max-bulk-len BYTES; CONFIG REWRITE"


class FalseReply(Exception):
    """A reply that the command never has, where *expected* says which it can have."""

    def __init__(self, reply: object, expected: str) -> None:
        super().__init__(reply, expected)
        self.reply = reply
        self.expected = expected


def is_reply(error: Exception) -> bool:
    """Whether the error is a reply of the server, not a failure of the connection."""
    from redis.exceptions import ConnectionError, ResponseError

    return isinstance(error, ResponseError) or (
        isinstance(error, ConnectionError) and str(error).startswith(("NOAUTH", "WRONGPASS", "LOADING"))
    )


def is_too_large(error: Exception) -> bool:
    """Whether the server does not accept a message of that size; it closes the connection then."""
    return reply_text(error).startswith(_TOO_LARGE)


def passes(error: Exception) -> bool:
    """Whether the same command can succeed later without any intervention."""
    from redis.exceptions import BusyLoadingError, ConnectionError

    if isinstance(error, BusyLoadingError | ConnectionError) and not is_login_error(error):
        return True
    return reply_text(error).startswith(_PASSING)


def reply_text(error: Exception) -> str:
    """Return the server's reply, with the code that it began with."""
    text, code = str(error), _CODES.get(type(error).__name__, "")
    return text if text.startswith(code) else f"{code} {text}"


def refusal(link: Link, reply: str, what: str) -> PublishRefused:
    """Return the error for *what* the server refused with *reply*, with the fix where one is known."""
    text = link.scrub(reply).rstrip(".")
    return PublishRefused(f"The broker {link.url} refused {what}: {text}.{fix_for(reply)}")


def fix_for(reply: str) -> str:
    """Return what an operator can do about it, as a sentence to append; empty if that is not known."""
    return next((f" {fix}." for code, fix in _FIXES.items() if reply.startswith(code)), "")
