"""Where dead letters are kept: setting ``dead_letters``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from walex_celery.dead_letters.letter import Letter
from walex_celery.dead_letters.postgres import PostgresStore
from walex_celery.dead_letters.schema import TABLE
from walex_celery.dead_letters.sqlite import SqliteStore
from walex_celery.dead_letters.store import Store, Try
from walex_celery.errors import ConfigurationError, SetupError
from walex_celery.settings.model import WalExSettings

logger = logging.getLogger("walex_celery.dead_letters.choosing")


def default_path(instance: str) -> Path:
    """The file that ``auto`` falls back on: ``~/.local/state/walex/<name>.dead-letters.sqlite3``.

    The folder is the XDG Base Directory Specification's for state, so ``$XDG_STATE_HOME`` where that is set.

    Raises:
        ConfigurationError: this user has no home.
    """
    folder = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(folder) if os.path.isabs(folder) else Path.home() / ".local" / "state"
    except RuntimeError:
        raise ConfigurationError(
            "dead_letters: this user has no home to keep dead letters in: set dead_letters= (or "
            "WALEX_DEAD_LETTERS) to a file"
        ) from None
    return base / "walex" / f"{instance.replace('/', '_')}.dead-letters.sqlite3"


def store_to_write(settings: WalExSettings) -> Store:
    """Where the producer stores what fails; says so in the log.

    Raises:
        SetupError, ConfigurationError: nothing can be stored where the setting says.
        PostgresUnavailable: Postgres can't be asked.
    """
    where = settings.dead_letters
    if where in ("auto", "postgres"):
        postgres = PostgresStore(settings)
        access = postgres.access()
        if access is not None and access.writable:
            logger.info("dead letters go to %s", postgres.where)
            return postgres
        postgres.close()
        why = f"{TABLE} is missing" if access is None else f"the role may not write to {TABLE}"
        mend = "celery -A <module> walex setup makes it, and lets the producer's role write there"
        if where == "postgres":
            raise SetupError(f"dead_letters: {why} in {settings.address()}\n  fix: {mend}")
        logger.warning("dead letters are kept on this host: %s (%s)", why, mend)
    file = _file(settings)
    file.prepare()
    logger.info("dead letters go to %s", file.where)
    return file


def stores_to_read(settings: WalExSettings) -> list[Store]:
    """All places where the setting has letters be: with ``auto`` the table and the file of this host.

    Raises:
        WalExError: Postgres can't be asked.
    """
    found: list[Store] = []
    if settings.dead_letters in ("auto", "postgres"):
        postgres = PostgresStore(settings)
        access = postgres.access()
        if settings.dead_letters == "postgres" or (access is not None and access.readable):
            found.append(postgres)
        else:
            postgres.close()
    if settings.dead_letters != "postgres":
        file = _file(settings)
        if file.path.exists() or settings.dead_letters != "auto" or not found:
            found.append(file)
    return found


def _file(settings: WalExSettings) -> SqliteStore:
    auto = settings.dead_letters == "auto"
    path = default_path(settings.name) if auto else Path(settings.dead_letters).expanduser()
    return SqliteStore(path.absolute(), settings.name)


class DeadLetters:
    """The dead letters of an instance, wherever they are. Not to be used by two threads at once.

    >>> with open_dead_letters(settings) as letters:  # doctest: +SKIP
    ...     letters.count()
    """

    def __init__(self, stores: list[Store]) -> None:
        self.stores = stores

    def __enter__(self) -> DeadLetters:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def where(self) -> str:
        """Where they are, for people."""
        return " and ".join(store.where for store in self.stores)

    def count(self) -> int:
        """How many there are."""
        return sum(store.count() for store in self.stores)

    def summaries(self) -> list[Letter]:
        """All, without their events, as the events happened."""
        found = [letter for store in self.stores for letter in store.summaries()]
        return sorted(found, key=lambda letter: (letter.lsn, letter.index))

    def find(self, id: str) -> tuple[Store, Letter] | None:
        """A letter with its events, and where it is."""
        for store in self.stores:
            letter = store.get(id)
            if letter is not None:
                return store, letter
        return None

    def attempt(self, id: str, attempt: Try) -> bool:
        """Try a letter again; see :meth:`~walex_celery.dead_letters.store.Store.attempt`."""
        return any(store.attempt(id, attempt) for store in self.stores)

    def discard(self, ids: Iterable[str]) -> int:
        """Remove letters; how many there were."""
        known = list(ids)
        return sum(store.discard(known) for store in self.stores)

    def close(self) -> None:
        """Close what is open."""
        for store in self.stores:
            store.close()


def open_dead_letters(settings: WalExSettings) -> DeadLetters:
    """The dead letters of *settings*' instance, for whoever looks at them.

    Raises:
        WalExError: Postgres can't be asked.
    """
    return DeadLetters(stores_to_read(settings))
