from collections.abc import Callable
from typing import Any

def connect(
    row_event: Callable[..., Any],
    context: Callable[..., Any],
    routed_event: type[tuple[Any, ...]],
    chunk: type[tuple[Any, ...]],
) -> None: ...
def read_slice(
    read_message: Callable[[], Any],
    message_type: type[Any] | None,
    count: int,
    size_limit: int,
    pending: bool,
    explicit: int,
    stop_at_boundary: bool,
) -> tuple[list[Any], int, int, bool]: ...

class Feeding: ...
