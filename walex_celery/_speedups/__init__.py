"""The compiled part: the hot path's usual case, in Cython. Optional: Python does all of it, more slowly.

It is built when the package is, where there is a C compiler (``hatch_build.py``). ``WALEX_NATIVE=0`` in the
environment leaves it out: to find out whether something is its fault.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, Final

_NAMES: Final = ("context", "rows", "feeding", "messages")


def _load() -> tuple[tuple[Any, ...], str]:
    """The modules, and why there are none where there are none."""
    if os.environ.get("WALEX_NATIVE") == "0":
        return (None,) * len(_NAMES), "WALEX_NATIVE=0 leaves it out"
    try:
        return tuple(import_module(f"{__name__}.{name}") for name in _NAMES), ""
    except ImportError as error:
        return (None,) * len(_NAMES), f"it was not built: {error}"


(context, rows, feeding, messages), absence = _load()

#: Whether there is a compiled part, and it is used.
COMPILED: Final = not absence
