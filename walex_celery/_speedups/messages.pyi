from collections.abc import Iterable, Sequence
from typing import Any

from walex_celery._speedups.contract import Fill, Renders

def packed(commands: Iterable[tuple[Any, ...]]) -> bytes: ...
def make_tasks(
    routed: list[Any], first: int, lsn: int, salt: int
) -> tuple[int, list[tuple[Any, str, bytes, bytes]], int]: ...

class JsonBody:
    def __init__(self, opening: bytes, closing: bytes, kept: int, frame: bytes | None = None) -> None: ...
    def render(self, value: bytes, head: bytes = b"") -> bytes: ...

class Envelopes:
    def __init__(
        self,
        plain: Fill,
        address: object,
        body: Renders,
        start: bytes,
        before: Sequence[bytes],
        after: Sequence[bytes],
        end: bytes,
        id_size: int,
    ) -> None: ...
    def fill(
        self, task_id: str, value: bytes, argsrepr: str, head: bytes = b""
    ) -> tuple[Any, str, bytes, bytes]: ...

class Frames:
    def __init__(
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
    ) -> None: ...
    def fill(
        self, task_id: str, value: bytes, argsrepr: str, head: bytes = b""
    ) -> tuple[Any, str, bytes, bytes] | None: ...
