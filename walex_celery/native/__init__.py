"""The compiled part: the hot path's usual case, in Cython. Optional: Python does all of it, more slowly.

It is built when the package is, where there is a C compiler (``hatch_build.py``). ``WALEX_NATIVE=0`` in the
environment leaves it out: to find out whether something is its fault.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, Final


def _load() -> tuple[tuple[Any, Any, Any], str]:
    """The modules, and why there are none where there are none."""
    if os.environ.get("WALEX_NATIVE") == "0":
        return (None, None, None), "WALEX_NATIVE=0 leaves it out"
    try:
        rows, feeding, messages = (
            import_module(f"{__name__}.{name}") for name in ("rows", "feeding", "messages")
        )
    except ImportError as error:
        return (None, None, None), f"it was not built: {error}"
    return (rows, feeding, messages), ""


(rows, feeding, messages), absence = _load()

#: Whether there is a compiled part, and it is used.
COMPILED: Final = not absence
