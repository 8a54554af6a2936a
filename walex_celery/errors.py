"""Everything that walex-celery raises, in one small tree.

The text of an error is written to the person who reads it at 3 a.m.: what happened, with which
setting, and the line that fixes it. Whether trying again can help is said by the class
(:class:`RetryableError`), never by reading a message.
"""

from __future__ import annotations

from collections.abc import Mapping


class WalExError(Exception):
    """Base of all errors raised by walex-celery.

    Attributes:
        fields: what it is about, for a log line's ``extra``: ``lsn``, ``xid``, ``table`` ...; may be empty.
    """

    fields: Mapping[str, object] = {}


class RetryableError(WalExError):
    """Trying the same again later can succeed; the producer does so, with backoff."""


class ConfigurationError(WalExError, ValueError):
    """A setting, a handler or a filter is missing or wrong; nothing has been touched yet."""


class SetupError(WalExError):
    """Postgres is not set up for what the settings ask for; the message has the line that fixes it."""


class PublicationMissing(SetupError):
    """A publication named in the settings does not exist in the database."""


class WalLevelError(SetupError):
    """The server's ``wal_level`` is not ``logical``."""


class PrivilegeError(SetupError):
    """The role may not do what replication needs (REPLICATION attribute, or a missing grant)."""


class RecoverableSetupError(SetupError):
    """A setup error that a running producer retries: it was right when streaming began and can be put right again.

    A producer that has not streamed yet stops with it, as with any SetupError.
    """


class AuthenticationFailed(RecoverableSetupError):
    """Postgres refuses the role's password: perhaps it was changed."""


class NoFreeSlot(RecoverableSetupError):
    """All ``max_replication_slots`` or ``max_wal_senders`` of the server are taken."""


class SlotMismatch(SetupError):
    """The named slot exists but belongs to another plugin, another database, or is not logical."""


class SlotLost(SetupError):
    """The slot was dropped or invalidated: the WAL it stood for is gone."""


class SlotInUse(RetryableError, RuntimeError):
    """Another process streams from the durable slot; ``--standby`` waits for it."""


class PostgresUnavailable(RetryableError):
    """The connection to Postgres failed or broke."""


class DecodeError(WalExError, ValueError):
    """Bytes that are not what the pgoutput protocol says they should be."""


class HandlerError(WalExError):
    """A batch handler raised, or a task could not be made of its event; the transaction is not acknowledged.

    Attributes:
        traceback: of the exception, without this application's secrets.
    """

    traceback: str = ""


class MiddlewareError(WalExError):
    """A message middleware broke its contract, or was called where no producer runs."""


class BrokerUnavailable(RetryableError):
    """The broker did not take, or did not confirm, what was sent to it."""


class Fenced(RetryableError):
    """Another producer has taken over this one's position in the broker (``exactly_once_enqueue``)."""


class PublishRefused(WalExError):
    """The broker will not take a task as it is: no such queue, queue full, message too large."""


class SpoolError(WalExError):
    """The spool on this disk is damaged, or belongs to another slot or cluster; Postgres can't send it again."""


class SpoolUnavailable(RetryableError):
    """The spool can't be written just now: its disk is full or failing."""


class DeadLettersUnavailable(RetryableError):
    """The dead letters can't be stored or read just now: the disk of their file is full or failing."""
