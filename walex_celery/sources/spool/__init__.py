"""The spool: messages on the producer's disk between the stream and the processing.

``intake.py`` fills the log, ``log.py`` keeps it, ``reader.py`` empties it, ``source.py`` is what the producer sees.
"""

from walex_celery.sources.spool.spool import Spool

__all__ = ["Spool"]
