"""Chooses where dead letters are kept, by the setting ``dead_letters``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from walex_celery._invocation import celery_command
from walex_celery.dead_letters.letter import Letter
from walex_celery.dead_letters.postgres import PostgresStore
from walex_celery.dead_letters.schema import TABLE
from walex_celery.dead_letters.sqlite import SqliteStore
from walex_celery.dead_letters.store import Store, Try
from walex_celery.errors import ConfigurationError, SetupError
from walex_celery.postgres.parameters import ConnectionSettings

logger = logging.getLogger("walex_celery.dead_letters.choosing")


class LetterSettings(Protocol):
    """What dead letters need of the settings; those of an application have it."""

    @property
    def dead_letters(self) -> str:
        """Where letters are kept: ``postgres``, a file, or ``auto``."""

    @property
    def name(self) -> str:
        """The instance whose letters they are."""

    def connection_settings(self) -> ConnectionSettings:
        """How to connect to the database that may hold them."""

    def address(self) -> str:
        """Where that is, as readable text."""


def default_path(instance: str) -> Path:
    """The file that ``auto`` falls back to: ``~/.local/state/walex/<name>.dead-letters.sqlite3``.

    The folder is the state folder of the XDG Base Directory Specification: ``$XDG_STATE_HOME`` if that is set.

    Raises:
        ConfigurationError: the user has no home directory.
    """
    folder = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(folder) if os.path.isabs(folder) else Path.home() / ".local" / "state"
    except RuntimeError:
        raise ConfigurationError(
            "dead_letters: this user has no home directory for dead letters\n"
            "  fix: set dead_letters= (or WALEX_DEAD_LETTERS) to a file"
        ) from None
    return base / "walex" / f"{instance.replace('/', '_')}.dead-letters.sqlite3"


def store_to_write(settings: LetterSettings) -> Store:
    """The store that the producer writes to; logs which one.

    Raises:
        SetupError, ConfigurationError: the store of the setting can't be written.
        PostgresUnavailable: Postgres can't be reached.
    """
    where = settings.dead_letters
    if where in ("auto", "postgres"):
        postgres = PostgresStore(settings.connection_settings(), settings.name)
        access = postgres.access()
        if access is not None and access.writable:
            logger.info("dead letters go to %s", postgres.where)
            return postgres
        postgres.close()
        why = f"{TABLE} is missing" if access is None else f"the role may not write to {TABLE}"
        fix = f"run {celery_command()} walex setup, which creates it and grants the producer's role access"
        if where == "postgres":
            raise SetupError(f"dead_letters: {why} in {settings.address()}\n  fix: {fix}")
        logger.warning("dead letters are kept on this host: %s (%s)", why, fix)
    file = _file(settings)
    file.prepare()
    logger.info("dead letters go to %s", file.where)
    return file


def stores_to_read(settings: LetterSettings) -> list[Store]:
    """All stores that may hold letters under this setting: with ``auto``, the table and this host's file.

    Raises:
        WalExError: Postgres can't be reached.
    """
    found: list[Store] = []
    if settings.dead_letters in ("auto", "postgres"):
        postgres = PostgresStore(settings.connection_settings(), settings.name)
        access = postgres.access()
        if settings.dead_letters == "postgres" or (access is not None and access.readable):
            found.append(postgres)
        else:
            postgres.close()
    if settings.dead_letters != "postgres":
        file = _file(settings)
        if os.path.lexists(file.path) or settings.dead_letters != "auto" or not found:
            found.append(file)
    return found


def _file(settings: LetterSettings) -> SqliteStore:
    auto = settings.dead_letters == "auto"
    path = default_path(settings.name) if auto else Path(settings.dead_letters).expanduser()
    return SqliteStore(path.absolute(), settings.name)


class DeadLetters:
    """The dead letters of an instance, in all its stores. Not thread-safe.

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
        """Where they are, as readable text."""
        return " and ".join(store.where for store in self.stores)

    def count(self) -> int:
        """How many there are."""
        return sum(store.count() for store in self.stores)

    def summaries(self) -> list[Letter]:
        """All letters, without their events, in the order of the events."""
        found = [letter for store in self.stores for letter in store.summaries()]
        return sorted(found, key=lambda letter: (letter.lsn, letter.index))

    def matching(self, handler: str | None = None, table: str | None = None) -> list[Letter]:
        """The summaries of the letters of a handler (or task), and with events of a table (or message prefix)."""
        return [
            letter
            for letter in self.summaries()
            if handler in (None, letter.handler)
            and (table is None or table.replace(":", ".").removeprefix("public.") in letter.tables)
        ]

    def named(self, ids: Iterable[str]) -> list[Letter]:
        """The summaries of the letters with these ids, in the order of the events.

        Raises:
            ConfigurationError: there is no such letter.
        """
        wanted = set(ids)
        found = [letter for letter in self.summaries() if letter.id in wanted]
        unknown = sorted(wanted - {letter.id for letter in found})
        if unknown:
            raise self._unknown(unknown)
        return found

    def find(self, id: str) -> tuple[Store, Letter]:
        """A letter with its events, and its store.

        Raises:
            ConfigurationError: there is no such letter.
        """
        for store in self.stores:
            letter = store.get(id)
            if letter is not None:
                return store, letter
        raise self._unknown([id])

    def _unknown(self, ids: list[str]) -> ConfigurationError:
        return ConfigurationError(f"there is no dead letter {', '.join(ids)} in {self.where}")

    def attempt(self, id: str, attempt: Try) -> bool:
        """Try a letter again; see :meth:`~walex_celery.dead_letters.store.Store.attempt`."""
        return any(store.attempt(id, attempt) for store in self.stores)

    def discard(self, ids: Iterable[str]) -> int:
        """Delete letters; returns how many existed."""
        known = list(ids)
        return sum(store.discard(known) for store in self.stores)

    def close(self) -> None:
        """Close what is open."""
        for store in self.stores:
            store.close()


def open_dead_letters(settings: LetterSettings) -> DeadLetters:
    """Open the dead letters of *settings*' instance.

    Raises:
        WalExError: Postgres can't be reached.
    """
    return DeadLetters(stores_to_read(settings))
