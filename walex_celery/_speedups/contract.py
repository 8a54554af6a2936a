"""What the compiled part and Python share: the signature and the meaning of each pair.

A compiled half handles the usual case and calls the Python half, or returns early, for everything else, invalid input
included: errors come from Python alone. Tests hold both halves to the same results (``tests/_speedups``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class ReadSlice(Protocol):
    """Reads the messages of the replication stream that are ready."""

    def __call__(
        self,
        read_message: Callable[[], Any],
        message_type: type[Any] | None,
        count: int,
        size_limit: int,
        pending: bool,
        explicit: int,
        stop_at_boundary: bool,
        /,
    ) -> tuple[list[Any], int, int, bool]:
        """Return the fields of a ``postgres.stream.Slice``.

        Args:
            read_message: of psycopg2's cursor.
            message_type: a NamedTuple of payload and LSN, or ``None`` for bare payloads.
            count: read at most this many messages.
            size_limit: in bytes; stop after the message that exceeds it.
            pending: whether a whole transaction has been read that is not confirmed yet.
            explicit: the LSN that was acknowledged last.
            stop_at_boundary: read nothing beyond the end of a transaction.
        """


class Packed(Protocol):
    """Packs commands for Redis."""

    def __call__(self, commands: Iterable[tuple[Any, ...]], /) -> bytes:
        """Return the commands as RESP arrays of bulk strings, in one piece."""


class MakeTasks(Protocol):
    """Makes the messages of events whose tasks all have a template."""

    def __call__(
        self, routed: list[Any], first: int, lsn: int, salt: int, /
    ) -> tuple[int, list[tuple[Any, str, bytes, bytes]], int]:
        """Make messages from event *first* on, and stop before the first event that needs more than templates.

        That is one whose functions are not resolved yet, have no template or publish a ``task-sent`` event, or whose
        template fails or returns ``None``. Events before it are counted in their route's and their tasks' tallies.

        Args:
            routed: the routed events of a chunk.
            first: the index to begin at.
            lsn: the chunk's commit LSN.
            salt: of its timeline.

        Returns:
            The index to continue at (the length of *routed* at the end), the messages, each a
            ``broker.templates.wire.Item``, and their size in bytes.
        """


class Renders(Protocol):
    """The body of a message."""

    def render(self, value: bytes, head: bytes = b"") -> bytes:
        """Return the finished body of ``value``, which begins with ``head``; the same object for the same ``value``."""


class Fill(Protocol):
    """Fills a task into the template of a message."""

    def __call__(
        self, task_id: str, value: bytes, argsrepr: str, head: bytes = b""
    ) -> tuple[Any, str, bytes, bytes] | None:
        """Return the message (an ``Item``), or ``None`` if the template can't hold such a task id."""


class Speedups(Protocol):
    """Returns, of each pair, the half to use; *plain* is always the Python half.

    Attributes:
        compiled: whether the compiled halves are used.
        absence: why not; empty if they are.
    """

    compiled: bool
    absence: str

    def read_slice(self, plain: ReadSlice) -> ReadSlice:
        """For ``postgres.stream``."""

    def context(
        self, methods: type[T], plain: Callable[P, T], *, earliest: int, latest: int
    ) -> Callable[P, T]:
        """For ``events.row_event``: the class of what the events of a chunk share.

        Args:
            methods: the class without fields, which both halves extend.
            plain: that class with Python's fields.
            earliest, latest: the range of a datetime, in microseconds since 2000-01-01 UTC.
        """

    def row_event(
        self, methods: type[T], plain: Callable[P, T], *, unchanged: object, max_nesting: int
    ) -> Callable[P, T]:
        """For ``events.row_event``: the class of an insert, update or delete.

        Args:
            methods: the class without fields, which both halves extend.
            plain: that class with Python's fields.
            unchanged: stands for a value that Postgres did not send.
            max_nesting: the depth up to which a JSON document is copied as it is.
        """

    def assembler(
        self,
        plain: Callable[P, T],
        *,
        context: Callable[..., Any],
        row_event: Callable[..., Any],
        routed_event: type[tuple[Any, ...]],
        chunk: type[tuple[Any, ...]],
    ) -> Callable[P, T]:
        """For ``pipeline.assembler``: the class that makes events of the stream.

        Args:
            plain: does all of it in Python.
            context, row_event: the classes that :meth:`context` and :meth:`row_event` returned.
            routed_event: the NamedTuple of an event and its route.
            chunk: the NamedTuple of a context, its routed events and a traceparent.
        """

    def make_tasks(self, plain: MakeTasks) -> MakeTasks:
        """For ``pipeline.task_messages``."""

    def packed(self, plain: Packed) -> Packed:
        """For the Redis writer."""

    def json_body(
        self, plain: Renders, opening: bytes, closing: bytes, kept: int, frame: bytes | None, /
    ) -> Renders:
        """For the body of a JSON message.

        Args:
            plain: does the same in Python.
            opening, closing: what stands before and after the string of the event's JSON text.
            kept: how many starts of events are remembered, encoded.
            frame: the header of an AMQP body frame without its last four bytes, the size; ``None`` for a JSON string
                of the body's base64.
        """

    def envelope(
        self,
        plain: Fill,
        address: object,
        body: Renders,
        start: bytes,
        before: Sequence[bytes],
        after: Sequence[bytes],
        end: bytes,
        id_size: int,
        /,
    ) -> Fill:
        """For the template of a virtual transport's message.

        Args:
            plain: does the same in Python.
            address: the first field of each message.
            body: of the messages.
            start: what stands before the body.
            before, after: what stands before and after the argsrepr, split at the task ids.
            end: what stands after the delivery tag.
            id_size: the length of a task id.
        """

    def frames(
        self,
        plain: Fill,
        address: object,
        body: Renders,
        method: bytes,
        content: bytes,
        head: bytes,
        before: Sequence[bytes],
        after: Sequence[bytes],
        table_size: int,
        size: int,
        id_size: int,
        /,
    ) -> Fill:
        """For the template of AMQP frames.

        Args:
            plain: does the same in Python.
            address: the first field of each message.
            body: of the messages, as frames.
            method: the frame of the publish, and the type and the channel of the next frame.
            content: class and weight of the content header.
            head: property flags, content type and content encoding.
            before, after: the table around the argsrepr, split at the task ids, without sizes.
            table_size: of the table without the argsrepr.
            size: of the content header without the argsrepr.
            id_size: the length of a task id.
        """
