"""Events whose handler failed, stored with their error until they are retried or discarded."""

from walex_celery.dead_letters.letter import Letter, letter_of
from walex_celery.dead_letters.schema import TABLE, schema_sql
from walex_celery.dead_letters.store import Store
from walex_celery.dead_letters.stores import (
    DeadLetters,
    default_path,
    open_dead_letters,
    store_to_write,
)

__all__ = [
    "TABLE",
    "DeadLetters",
    "Letter",
    "Store",
    "default_path",
    "letter_of",
    "open_dead_letters",
    "schema_sql",
    "store_to_write",
]
