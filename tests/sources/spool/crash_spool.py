"""The spool that crash tests name by ``WALEX_MESSAGE_MIDDLEWARE``."""

from __future__ import annotations

import os

from walex_celery import Spool

# Small, so that there are several segments.
spool = Spool(os.environ["SPOOL_FOLDER"], max_bytes=2**20)
