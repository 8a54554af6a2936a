"""Everything that walex-celery raises, in one small tree.

Error texts are for someone on call at 3 a.m.: what happened, with which setting, and the fix. Whether retrying can
help is decided by the class (:class:`RetryableError`), never by parsing a message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class WalExError(Exception):
    """Base of all errors raised by walex-celery.

    Attributes:
        fields: the subject, for a log line's ``extra``: ``lsn``, ``xid``, ``table`` ...; may be empty.
    """

    fields: Mapping[str, object] = {}


class RetryableError(WalExError):
    """Retrying later can succeed; the producer does so, with backoff."""


class ConfigurationError(WalExError, ValueError):
    """A setting, a handler or a filter is missing or wrong; nothing was changed yet."""


class SetupError(WalExError):
    """Postgres is not set up as the settings require; the message has the fix."""


class PublicationMissing(SetupError):
    """A publication named in the settings does not exist in the database."""


class WalLevelError(SetupError):
    """The server's ``wal_level`` is not ``logical``."""


class PrivilegeError(SetupError):
    """The role lacks a privilege that replication needs (the REPLICATION attribute, or a grant)."""


class RecoverableSetupError(SetupError):
    """A setup error that a running producer retries: it was right when streaming began and can be put right again.

    A producer that has not streamed yet stops with it, as with any SetupError.
    """


class AuthenticationFailed(RecoverableSetupError):
    """Postgres rejects the role's password; perhaps it was changed."""


class NoFreeSlot(RecoverableSetupError):
    """All ``max_replication_slots`` or ``max_wal_senders`` of the server are taken."""


class SlotMismatch(SetupError):
    """The named slot exists but belongs to another plugin, another database, or is not logical."""


class SlotLost(SetupError):
    """The slot was dropped or invalidated: the WAL that it kept is gone."""


class SlotInUse(RetryableError, RuntimeError):
    """Another process streams from the durable slot; ``--standby`` waits for it."""


class PostgresUnavailable(RetryableError):
    """The connection to Postgres failed or broke."""


class DecodeError(WalExError, ValueError):
    """Bytes that violate the pgoutput protocol."""


class HandlerError(WalExError):
    """A batch handler raised, no task could be built from its event, or the broker finds the task's message too large.

    The transaction is not acknowledged.

    Attributes:
        traceback: of the exception, with secrets removed.
    """

    traceback: str = ""


class MiddlewareError(WalExError):
    """A message middleware broke its contract, or was called outside of a producer."""


class BrokerUnavailable(RetryableError):
    """The broker did not accept, or did not confirm, what was sent to it."""


class Fenced(RetryableError):
    """Another producer has taken over this one's position in the broker (``exactly_once_enqueue``)."""


class PublishRefused(WalExError):
    """The broker rejects a task: no such queue, queue full, message too large."""


class MessageTooLarge(PublishRefused):
    """The broker rejects a task because its message is larger than it accepts: goes by ``on_error``.

    Args:
        text: what happened, and the fix.
        task: the Celery task's name.
        task_id: its id.
        size_bytes: of the message.
        limit_bytes: what the broker accepts; ``None`` if it does not say.
        message: the message itself, in the form that its publisher has it in.

    Attributes:
        each: an error like this one for each message that is known to be too large, in order; this one is the first.
    """

    def __init__(
        self,
        text: str,
        *,
        task: str,
        task_id: str,
        size_bytes: int,
        limit_bytes: int | None,
        message: object,
    ) -> None:
        super().__init__(text)
        self.task = task
        self.task_id = task_id
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        self.message = message
        self.each: Sequence[MessageTooLarge] = (self,)


class SpoolError(WalExError):
    """The spool on this disk is damaged, or belongs to another slot or cluster; Postgres can't send it again."""


class SpoolUnavailable(RetryableError):
    """The spool can't be written at the moment: its disk is full or failing."""


class DeadLettersUnavailable(RetryableError):
    """The dead letters can't be stored or read at the moment: the disk of their file is full or failing."""
