"""Exactly once: the position that Redis or Valkey stores together with tasks, held by one publisher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from walex_celery.broker.driver import Batch
from walex_celery.broker.position import Position
from walex_celery.broker.redis.connection import RedisConnection
from walex_celery.broker.redis.position_script import PositionScript
from walex_celery.errors import Fenced


class StoredPosition:
    """The capability of a Redis writer; each new connection takes up the position again."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._script: PositionScript | None = None
        self._known: int | None = None  # as it was when the connection was made

    @property
    def is_held(self) -> bool:
        """Whether a position has been taken over: from then on batches are stored with theirs."""
        return self._script is not None

    def take_over(self, key: str) -> Position | None:
        """Take over the position under *key* from the publisher that had it, and return it.

        Raises:
            BrokerUnavailable, PublishRefused: it was not read; call it again.
        """
        connection = self._connection
        if connection.unanswered:
            connection.fail()
        self._script = connection.on_open = None
        connection.open()
        self._script = PositionScript(connection.prefixed(key))
        connection.on_open = self._renew
        self._known = None
        return self._open()

    def drop_stored(self, batches: list[Batch]) -> None:
        """Drop the batches that the broker has stored already."""
        known = self._known
        if known is not None:
            # Only a batch that an earlier connection wrote, and got no answer to, can be stored.
            generation = self._connection.generation
            batches[:] = [b for b in batches if b.generation == generation or (b.position or 0) > known]

    def reset_position(self) -> None:
        """Forget the stored position.

        Raises:
            Fenced: another publisher has taken it over.
            BrokerUnavailable, PublishRefused: it is still there; call it again.
        """
        assert self._script is not None
        self._connection.open()
        self._known = None
        self._connection.ask(self._script.reset, "did not forget how far it got")

    def leave(self, note: str) -> None:
        """Store a note for whoever takes over next; does nothing if nothing was taken over here.

        Raises:
            Fenced: another publisher has taken it over.
            BrokerUnavailable, PublishRefused: it is not stored.
        """
        if self._script is not None:
            self._connection.open()
            self._connection.ask(partial(self._script.leave, note=note), "did not store how far it got")

    def _renew(self) -> None:
        self._known = self._open()

    def _open(self) -> Position | None:
        assert self._script is not None
        return self._connection.ask(self._script.open, "did not say how far it got")

    def command(
        self, batch: Batch, lists: Mapping[str, Sequence[bytes]], others: Sequence[tuple[Any, Any, Any]]
    ) -> tuple[Any, ...]:
        """Return the command that pushes messages to *lists*, runs *others*, and stores the batch's position."""
        assert self._script is not None
        assert batch.position is not None
        return self._script.store(batch.position, lists, others)

    def fenced(self, error: Exception) -> Fenced | None:
        """Return the error to raise for a reply that says that another publisher has taken over, if it does."""
        return None if self._script is None else self._script.fenced(error)
