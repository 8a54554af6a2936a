"""The one seam between Python and the compiled part, which does the usual case of the hot path in Cython.

The compiled part is optional. It is built with the package where there is a C compiler (``hatch_build.py``), and
``WALEX_NATIVE=0`` in the environment leaves it out, to find out whether a fault is its own. Everything it does, Python
does too, with the same results, only more slowly.

Each pair is a line where the Python half stands, such as ``packed = speedups.packed(packed_plainly)``: the half to use
under the plain name. Only :mod:`.compiled` imports the extension modules, and only this module decides whether it is
used. :mod:`.contract` says what the two halves of each pair share. This package imports no other part of
``walex_celery``, so every other part may import it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from walex_celery._speedups.contract import Speedups


def _choose() -> Speedups:
    from walex_celery._speedups.plain import Plain

    if os.environ.get("WALEX_NATIVE") == "0":
        return Plain("WALEX_NATIVE=0 leaves it out")
    try:
        from walex_celery._speedups.compiled import Compiled
    except ImportError as error:
        return Plain(f"it was not built: {error}")
    return Compiled()


speedups: Final = _choose()
