"""Runs a step until it is stopped, and waits out unreachable servers and a slot in use."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from walex_celery.errors import RecoverableSetupError, RetryableError, SlotInUse
from walex_celery.retry.backoff import Backoff
from walex_celery.telemetry.activity import Activity, Doing

logger = logging.getLogger("walex_celery.retrying")

#: Seconds between checks of a slot that another producer uses.
STANDBY_SECONDS: Final = 1.0
#: Seconds for which a slot may be in use when a producer starts: if its predecessor was killed just now, the backend
#: needs a moment to notice.
HANDOVER_SECONDS: Final = 3.0
_HANDOVER_LOOK_SECONDS: Final = 0.1


class Retrying:
    """Calls a step again and again until *stopping* is set.

    Args:
        stopping: ends :meth:`run`.
        give_up_seconds: see :class:`~walex_celery.retry.backoff.Backoff`.
        standby: wait for a slot that is in use, instead of raising SlotInUse.
        activity: where waits are reported.
        handover_seconds: how long a slot may be in use at the start.
    """

    def __init__(
        self,
        stopping: threading.Event,
        give_up_seconds: float | None,
        *,
        standby: bool,
        activity: Activity | None = None,
        handover_seconds: float = HANDOVER_SECONDS,
    ) -> None:
        self._stopping = stopping
        self._backoff = Backoff(give_up_seconds)
        self._standby = standby
        self._activity = Activity() if activity is None else activity
        self._handover_seconds = handover_seconds
        self._ever = False

    @property
    def has_succeeded(self) -> bool:
        """Whether :meth:`succeeded` was ever called."""
        return self._ever

    def succeeded(self) -> None:
        """The step reached its goal: later failures count from zero."""
        self._ever = True
        self._backoff.reset()

    def run(self, step: Callable[[], object]) -> None:
        """Call *step* until stopped.

        Raises:
            RetryableError: it failed for *give_up_seconds*.
            RecoverableSetupError: likewise; immediately if :meth:`succeeded` was never called.
            SlotInUse: without *standby*, the slot was in use for *handover_seconds* at the start.
        """
        logged = False
        give_up_at: float | None = None  # on a slot that is in use
        while not self._stopping.is_set():
            try:
                step()
            except SlotInUse as error:
                if self._standby:
                    self._activity.begin(Doing.STANDING_BY)
                    if not logged:
                        logger.info("standing by: %s", error, extra=dict(error.fields))
                        logged = True
                    self._stopping.wait(STANDBY_SECONDS)
                elif not self._ever:
                    now = time.monotonic()
                    give_up_at = now + self._handover_seconds if give_up_at is None else give_up_at
                    if now >= give_up_at:
                        raise
                    self._stopping.wait(_HANDOVER_LOOK_SECONDS)
                else:
                    # Our own connection broke, and the slot stays in use until the server notices.
                    self._activity.begin(Doing.RETRYING)
                    self._backoff.wait(error, self._stopping)
            except (RetryableError, RecoverableSetupError) as error:
                if isinstance(error, RecoverableSetupError) and not self._ever:
                    raise
                logged = False
                self._activity.begin(Doing.RETRYING)
                self._backoff.wait(error, self._stopping)
