"""The setting: ``message_middleware=Spool(folder)``."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from walex_celery.errors import ConfigurationError, MiddlewareError

if TYPE_CHECKING:
    from walex_celery.sources.spool.source import SpoolSource

DEFAULT_MAX_BYTES: Final = 10 * 2**30
SMALLEST_MAX_BYTES: Final = 2**20
LARGEST_SEGMENT_BYTES: Final = 64 * 2**20


class Spool:
    """A message middleware that stores the stream on the producer's disk, and feeds the processing from there.

    Postgres may forget what is stored, so a broker that is away for a day, or a slow handler, does not make it keep
    WAL. The slot must be durable. The spool is read and written while a producer runs, not before.

    Args:
        folder: for the files; made when missing. Of this instance alone, on a disk that survives the host's crash.
        max_bytes: reading waits while the files have this many; a single transaction may be larger.

    Raises:
        ConfigurationError: for sizes that can't be.

    >>> Spool("/var/lib/walex", max_bytes=2**30)
    Spool('/var/lib/walex', max_bytes=1073741824)
    """

    #: What is stored is only as durable as what has not been: see ``settings.py``.
    needs_durable_slot: ClassVar[bool] = True

    def __init__(self, folder: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_bytes < SMALLEST_MAX_BYTES:
            raise ConfigurationError(
                f"Spool: max_bytes is {max_bytes}; it takes {SMALLEST_MAX_BYTES} (1 MiB) at least"
            )
        self.folder = Path(folder).absolute()
        self.max_bytes = max_bytes
        # Room is freed by the segment, so a spool has several.
        self.segment_bytes = min(LARGEST_SEGMENT_BYTES, max_bytes // 8)

    def change_source(
        self,
        *,
        standby: bool,
        reconnect_timeout: float | None,
        log_interval: float,
        streaming: threading.Event,
    ) -> SpoolSource:
        """The source that a producer reads instead of the slot.

        Args:
            standby: wait for a slot that is in use.
            reconnect_timeout: seconds of failed connects after which it gives up; ``None`` for never.
            log_interval: seconds between two warnings about the same thing.
            streaming: set while the slot is being streamed into the spool.
        """
        # Loaded where a producer runs: applications that only name the setting, workers among them, need none of it.
        from walex_celery.sources.spool.source import SpoolSource

        return SpoolSource(
            self,
            standby=standby,
            reconnect_timeout=reconnect_timeout,
            log_interval=log_interval,
            streaming=streaming,
        )

    def __repr__(self) -> str:
        return f"Spool({str(self.folder)!r}, max_bytes={self.max_bytes})"

    def __call__(self, message: Any, app_name: str) -> None:
        """Not to be called: the producer reads and writes it by the slice, in a thread of its own."""
        raise MiddlewareError(
            f"{self!r} was called by another middleware; give it as message_middleware= itself"
        )
