"""Dead letters in a SQLite file on the producer's host, for when it may not write to the database."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from walex_celery._files import UnsafePath, check_private, open_private, prepare_folder, sync_folder
from walex_celery.dead_letters.letter import Letter
from walex_celery.dead_letters.store import Try
from walex_celery.errors import ConfigurationError, DeadLettersUnavailable
from walex_celery.postgres.lsn import Lsn

Result = TypeVar("Result")

# While one thread makes a file, no other may have it open: see SqliteStore._make.
_making: Final = threading.Lock()
#: Seconds to wait for another writer.
BUSY_SECONDS: Final = 5.0

# ``letter`` is JSON without the events; what queries need has its own column. ``events`` is a JSON text sequence
# (RFC 7464), whose separator can't occur in JSON text.
_SEPARATOR: Final = "\x1e"
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS dead_letters (
    id TEXT PRIMARY KEY, instance TEXT NOT NULL, lsn TEXT NOT NULL, first_index INTEGER NOT NULL,
    letter TEXT NOT NULL, events TEXT NOT NULL
)
"""

_decode = msgspec.json.Decoder(Letter, dec_hook=lambda _, text: Lsn.parse(text)).decode


class SqliteStore:
    """The letters of one instance in a file; see :class:`~walex_celery.dead_letters.store.Store`.

    Args:
        path: of the file, created with the first letter. It holds row data, so only its owner may read it.
        instance: name of the WalEx.
    """

    def __init__(self, path: Path, instance: str) -> None:
        self.path = path
        self._instance = instance
        self._opened: sqlite3.Connection | None = None

    @property
    def where(self) -> str:
        """Where it is, as readable text."""
        return f"file {self.path}"

    def prepare(self) -> None:
        """Create the file, so that problems show at start.

        Raises:
            ConfigurationError: it can't be created or written.
        """
        try:
            self._run(lambda connection: None)
        except DeadLettersUnavailable as error:
            another = "set dead_letters= (or WALEX_DEAD_LETTERS) to a file that this user may write"
            joint = ", or " if isinstance(error.__cause__, UnsafePath) else "\n  fix: "
            raise ConfigurationError(f"{error}{joint}{another}") from error

    def add(self, letter: Letter) -> None:
        """Store *letter*; if it exists, update its events and error."""

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            known = _find(connection, letter.id)
            kept = letter if known is None else msgspec.structs.replace(letter, failed_at=known.failed_at)
            connection.execute(
                "INSERT OR REPLACE INTO dead_letters VALUES (?, ?, ?, ?, ?, ?)",
                (
                    letter.id,
                    letter.instance,
                    # Sorts like the number; SQLite's integers are signed and can't hold all of 64 bits.
                    f"{letter.lsn:016X}",
                    letter.index,
                    _summary_json(kept),
                    _SEPARATOR.join(letter.events),
                ),
            )
            connection.execute("COMMIT")

        self._run(insert)

    def summaries(self) -> list[Letter]:
        """All letters without their events."""
        select = "SELECT letter FROM dead_letters WHERE instance = ? ORDER BY lsn, first_index, id"
        none: list[tuple[str]] = []
        rows = self._read(lambda connection: connection.execute(select, (self._instance,)).fetchall(), none)
        return [_decode(text) for (text,) in rows]

    def get(self, id: str) -> Letter | None:
        """A letter with its events."""
        return self._read(lambda connection: _find(connection, id), None)

    def attempt(self, id: str, attempt: Try) -> bool:
        """Lock a letter while *attempt* runs; a producer may store others meanwhile."""
        if self.get(id) is None:
            return False
        with self._held(id) as held:
            letter = self.get(id) if held else None
            if letter is None:
                return False
            left = attempt(letter)
            if left is None:
                self.discard([id])
            else:
                update = "UPDATE dead_letters SET letter = ? WHERE id = ?"
                self._run(lambda connection: connection.execute(update, (_summary_json(left), id)))
            return True

    def discard(self, ids: Iterable[str]) -> int:
        """Remove letters."""
        delete = "DELETE FROM dead_letters WHERE instance = ? AND id = ?"

        def remove(connection: sqlite3.Connection) -> int:
            return sum(connection.execute(delete, (self._instance, id)).rowcount for id in ids)

        return self._read(remove, 0)

    def count(self) -> int:
        """How many there are."""
        select = "SELECT count(*) FROM dead_letters WHERE instance = ?"
        return self._read(
            lambda connection: int(connection.execute(select, (self._instance,)).fetchone()[0]), 0
        )

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @contextmanager
    def _held(self, id: str) -> Iterator[bool]:
        """Lock the letter's byte of a lock file. The kernel releases it if the process dies."""
        path = Path(f"{self.path}.lock")
        try:
            descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise DeadLettersUnavailable(f"dead letters: {path} can't be opened: {error.strerror}") from error
        try:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(id, 16) >> 2)
            except (BlockingIOError, PermissionError):
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _connected(self) -> sqlite3.Connection:
        if self._opened is None:
            prepare_folder(self.path.parent, shared=True)
            with _making:
                self._make()
            made = self._check_files()
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(_TABLE)
                # SQLite opens by the name: it has to be the same file as before.
                if self._check_files() != made:
                    raise OSError(0, "it was replaced while it was being opened")
            except BaseException:
                connection.close()
                raise
            sync_folder(self.path.parent)
            self._opened = connection
        return self._opened

    def _make(self) -> None:
        """Make the file, if there is none, for its mode: SQLite gives it to ``-wal`` and ``-shm`` too.

        One that exists is not opened: closing it would end the locks that this process has on it by other connections,
        and a process that thinks itself alone removes ``-wal``, with the letters in it.
        """
        with suppress(FileExistsError):
            os.close(open_private(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL))

    def _check_files(self) -> tuple[int, int]:
        """Check all files that SQLite opens; returns which one the first is."""
        for suffix in ("-wal", "-shm", "-journal"):
            check_private(Path(f"{self.path}{suffix}"))
        status = check_private(self.path)
        return (status.st_dev, status.st_ino) if status else (0, 0)

    def _read(self, step: Callable[[sqlite3.Connection], Result], nothing: Result) -> Result:
        """Run *step*, or return *nothing* if there is no file: reading does not create it."""
        return self._run(step) if self._opened is not None or os.path.lexists(self.path) else nothing

    def _run(self, step: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            return step(self._connected())
        except (sqlite3.Error, OSError) as error:
            self.close()
            reason = error.strerror if isinstance(error, OSError) else error
            raise DeadLettersUnavailable(f"dead letters: {self.where} can't be used: {reason}") from error


def _find(connection: sqlite3.Connection, id: str) -> Letter | None:
    with closing(connection.execute("SELECT letter, events FROM dead_letters WHERE id = ?", (id,))) as found:
        row: Any = found.fetchone()
    if row is None:
        return None
    return msgspec.structs.replace(_decode(row[0]), events=tuple(row[1].split(_SEPARATOR)))


def _summary_json(letter: Letter) -> str:
    # Lone surrogates in an error's text are escaped, as in the other store.
    plain = {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in msgspec.structs.asdict(letter).items()
    }
    plain |= {"lsn": str(letter.lsn), "events": ()}
    return msgspec.json.encode(plain).decode()
