"""The modules that Celery itself loads: ``include``, ``imports``, ``autodiscover_tasks()``, Django's fixup.

A worker imports them when it starts; importing the application does not. So whoever asks for the handlers outside of a
worker has to.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from celery import Celery

_MODULES: Final = "_walex_celery_modules"
_making = threading.Lock()


class CeleryModules:
    """Those of one application; imported once, by :meth:`load` or by Celery.

    Attributes:
        loading: :meth:`load` is importing them now.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._lock = threading.RLock()  # a module that is being imported may ask for them
        self._loaded = False
        self._failure: Exception | None = None
        self.loading = False

    @classmethod
    def of(cls, app: Celery) -> CeleryModules:
        """The application's, the same each time."""
        with _making:
            found: CeleryModules = vars(app).setdefault(_MODULES, cls(app))
            return found

    def load(self) -> None:
        """Import them as a worker does, unless that was done.

        What a module raises is raised; and again by each later call, for half of the handlers may be missing.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._loaded or self.loading:
                return
            self.loading = True
            try:
                with _signals_log_nothing():
                    self._app.loader.import_default_modules()
            except Exception as error:
                self._failure = error
                raise
            finally:
                self.loading = False
            self._loaded = True

    def celery_loads(self) -> None:
        """Note that Celery imports them by itself: a worker does."""
        self._loaded = True


@contextmanager
def _signals_log_nothing() -> Iterator[None]:
    """Celery logs what a signal's receiver raises; here it is raised as well, and would be printed twice."""
    log = logging.getLogger("celery.utils.dispatch.signal")
    disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = disabled
