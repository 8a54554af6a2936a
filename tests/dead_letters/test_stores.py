"""Both stores keep a letter whole, once, until it is tried with success or discarded."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.dead_letters.support import events, letter, never
from tests.support import Database
from walex_celery import ConfigurationError, Event
from walex_celery.dead_letters import Letter, Store, letter_of, schema_sql
from walex_celery.dead_letters.postgres import PostgresStore
from walex_celery.dead_letters.sqlite import SqliteStore
from walex_celery.errors import DeadLettersUnavailable
from walex_celery.settings.model import load_settings

Opens = Callable[..., Store]


def opening(database: Database) -> Opens:
    def opens(instance: str = "shop") -> Store:
        given = {"url": database.url, "name": instance, "publication": "events"}
        settings = load_settings(given, {})
        return PostgresStore(settings.connection_settings(), settings.name)

    return opens


@pytest.fixture(params=["postgres", "sqlite"])
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Opens:
    """Opens the store each time."""
    if request.param == "sqlite":
        return lambda instance="shop": SqliteStore(tmp_path / "state" / "letters.sqlite3", instance)
    database: Database = request.getfixturevalue("database")
    for statement in schema_sql():
        database.execute(statement)
    return opening(database)


def test_a_letter_comes_back_whole(opens: Opens) -> None:
    kept = letter(b"ada", "Ünïcødé \U0001f600".encode(), error="a\x00b\ud800c → d")
    store = opens()
    store.add(kept)
    store.close()

    found = opens().get(kept.id)

    assert found is not None
    assert found.error in ("a\\x00b\\ud800c → d", "a\x00b\\ud800c → d")
    for name in Letter.__struct_fields__:
        if name != "error":
            assert getattr(found, name) == getattr(kept, name), name
    assert [Event.from_json(text) for text in found.events] == events(b"ada", "Ünïcødé \U0001f600".encode())
    (summary,) = opens().summaries()
    assert (summary.events, summary.event_count, summary.lsn) == ((), 2, kept.lsn)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_of_another_encoding_keeps_any_text(database: Database, encoding: str) -> None:
    server = database.server
    other = Database(server, f"{database.name}_{encoding.lower()}")
    database.execute(f"CREATE DATABASE {other.name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        for statement in schema_sql():
            other.execute(statement)
        store = opening(other)()
        kept = letter("é → \U0001f600".encode(), error="é → d")
        store.add(kept)
        found = store.get(kept.id)
        store.close()
    finally:
        server.drop_database(other.name)
    assert found is not None
    assert found.error == r"\xe9 \u2192 d"
    (event,) = [Event.from_json(text) for text in found.events]
    assert event.new_record["name"] == "é → \U0001f600"


def test_a_redelivered_failure_is_the_same_letter(opens: Opens) -> None:
    store = opens()
    store.add(letter(error="first"))
    store.add(letter(error="second", tries=3))
    assert [(found.error, found.tries) for found in store.summaries()] == [("second", 3)]


def test_a_redelivered_failure_may_have_other_events(opens: Opens) -> None:
    """If filters changed meanwhile, the transaction is cut into other chunks: a retry needs all that failed."""
    store = opens()
    store.add(letter(b"ada"))
    again = letter(b"ada", b"grace")
    store.add(again)
    found = store.get(again.id)
    assert found is not None
    assert (found.events, found.event_count, store.count()) == (again.events, 2, 1)


def test_two_events_of_a_transaction_are_two_letters(opens: Opens) -> None:
    """Each task that could not be made is one of its own."""
    store = opens()
    given = msgspec.structs.asdict(letter())
    names = ("instance", "system_identifier", "handler", "error_type", "error", "traceback", "tries")
    for event in events(b"ada", b"grace"):
        store.add(letter_of([event], task_id=f"of {event.index}", **{name: given[name] for name in names}))
    assert [(found.index, found.task_id) for found in store.summaries()] == [(0, "of 0"), (1, "of 1")]


@pytest.mark.parametrize(
    "different",
    [
        {"handler": "shop.other"},
        {"registration": "on_event(all)"},
        {"system_identifier": 7},
        {"timeline": 2},
    ],
)
def test_what_is_another_failure_is_another_letter(opens: Opens, different: dict[str, object]) -> None:
    store = opens()
    store.add(letter())
    store.add(letter(**different))
    assert store.count() == 2


def test_each_instance_sees_its_own(opens: Opens) -> None:
    ours, other = opens(), opens("other")
    ours.add(letter())
    other.add(letter(instance="other"))
    assert [found.instance for found in other.summaries()] == ["other"]
    assert (ours.count(), other.count()) == (1, 1)
    assert ours.discard([other.summaries()[0].id]) == 0


def test_a_try_that_went_well_removes_it_and_one_that_did_not_updates_it(opens: Opens) -> None:
    store, kept = opens(), letter()
    store.add(kept)
    assert store.attempt(kept.id, lambda found: found.failed_again("KeyError", "again", "Traceback: again"))
    found = store.get(kept.id)
    assert found is not None
    assert (found.error_type, found.error, found.traceback) == ("KeyError", "again", "Traceback: again")
    assert (found.tries, found.failed_at, found.events) == (2, kept.failed_at, kept.events)
    assert found.tried_at > kept.tried_at
    assert store.attempt(kept.id, lambda found: None)
    assert store.count() == 0
    assert not store.attempt(kept.id, never)


def test_a_try_that_is_interrupted_leaves_it(opens: Opens) -> None:
    store, kept = opens(), letter()
    store.add(kept)

    def interrupted(found: Letter) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.attempt(kept.id, interrupted)
    assert store.count() == 1
    assert store.attempt(kept.id, lambda found: None)


def test_discard(opens: Opens) -> None:
    store, kept, other = opens(), letter(), letter(handler="shop.other")
    store.add(kept)
    store.add(other)
    assert store.discard([kept.id, "0" * 16]) == 1
    assert [found.id for found in store.summaries()] == [other.id]


def test_two_tries_at_once_never_run_one_letter_twice_in_postgres(database: Database) -> None:
    for statement in schema_sql():
        database.execute(statement)
    opens, kept = opening(database), letter()
    opens().add(kept)
    entered, leave, ran = threading.Event(), threading.Event(), []

    def slow(found: Letter) -> None:
        ran.append("first")
        entered.set()
        assert leave.wait(20)

    first = threading.Thread(target=opens().attempt, args=(kept.id, slow))
    first.start()
    assert entered.wait(10)
    assert not opens().attempt(kept.id, never)
    leave.set()
    first.join(20)
    assert ran == ["first"]
    assert opens().count() == 0


HOLDER = """
import sys
from pathlib import Path
from walex_celery.dead_letters.sqlite import SqliteStore

def slow(letter):
    print("has it", flush=True)
    sys.stdin.read()

SqliteStore(Path(sys.argv[1]), "shop").attempt(sys.argv[2], slow)
"""


def test_two_tries_at_once_never_run_one_letter_twice_in_a_file(tmp_path: Path) -> None:
    """Nor is the letter held for ever by a process that was killed; others can be stored meanwhile."""
    path, kept, other = tmp_path / "letters.sqlite3", letter(), letter(handler="shop.other")
    store = SqliteStore(path, "shop")
    store.add(kept)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), kept.id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"has it\n"
        assert not store.attempt(kept.id, never)
        store.add(other)
        assert store.attempt(other.id, lambda found: None)
        holder.kill()
    assert store.attempt(kept.id, lambda found: None)


@pytest.mark.parametrize("setting", ["off", "remote_apply"])
def test_the_table_is_durable_whatever_the_database_s_setting(database: Database, setting: str) -> None:
    """Once a letter is stored its events are acknowledged; and no standby server is waited for."""
    database.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = {setting}")
    for statement in schema_sql():
        database.execute(statement)
    store = opening(database)()
    store.add(letter())
    assert isinstance(store, PostgresStore)
    with store._connected().cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchall() == [("local",)]
    store.close()


def test_the_file_is_durable_and_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / "state" / "letters.sqlite3"
    store = SqliteStore(path, "shop")
    store.add(letter())
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    assert store._connected().execute("PRAGMA synchronous").fetchone() == (2,)


def test_looking_makes_no_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "letters.sqlite3", "shop")
    assert (store.summaries(), store.count(), store.get("0"), store.discard(["0"])) == ([], 0, None, 0)
    assert not store.attempt("0", never)
    assert not list(tmp_path.iterdir())


def test_a_file_that_can_t_be_is_an_error_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"fix: set dead_letters="):
        SqliteStore(tmp_path / "file" / "letters.sqlite3", "shop").prepare()
    (tmp_path / "junk").write_text("this is no database" * 100)
    with pytest.raises(ConfigurationError, match=r"not a database"):
        SqliteStore(tmp_path / "junk", "shop").prepare()


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal", ".lock"])
@pytest.mark.parametrize("leads", ["to a file", "nowhere"])
def test_a_symbolic_link_is_not_followed(tmp_path: Path, suffix: str, leads: str) -> None:
    """Nor by SQLite, which opens three more files by their names."""
    path, target = tmp_path / "letters.sqlite3", tmp_path / "target"
    store = SqliteStore(path, "shop")
    if suffix:
        store.add(letter())
        store.close()
    if leads == "to a file":
        target.write_text("another's")
    link = Path(f"{path}{suffix}")
    link.unlink(missing_ok=True)
    link.symlink_to(target)

    def attempted() -> None:
        if suffix != ".lock":
            store.add(letter())
        store.attempt(letter().id, lambda found: None)

    for use in (attempted, lambda: SqliteStore(path, "shop").attempt(letter().id, lambda found: None)):
        with pytest.raises(DeadLettersUnavailable, match=rf"{link} is a symbolic link.*\n  fix: .*rm {link}"):
            use()
    assert (target.read_text() if target.exists() else None) == (
        "another's" if leads == "to a file" else None
    )


def test_a_link_in_its_place_is_an_error_at_start(tmp_path: Path) -> None:
    path = tmp_path / "letters.sqlite3"
    path.symlink_to("target")
    with pytest.raises(ConfigurationError, match=r"symbolic link.*\n  fix: .*, or set dead_letters= \("):
        SqliteStore(path, "shop").prepare()


def test_another_user_s_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "letters.sqlite3"
    path.touch()
    owner = os.geteuid()
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner:
        monkeypatch.setattr("walex_celery._files._ROOT", owner)  # as /tmp is
    with pytest.raises(ConfigurationError, match=rf"{path} belongs to another user \(uid {owner}\)"):
        SqliteStore(path, "shop").prepare()


@pytest.mark.parametrize(("mode", "who"), [(0o777, "every user"), (0o770, "its group")])
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, mode: int, who: str) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"{tmp_path} can be written by {who}.*\n  fix: chmod go-w"):
        SqliteStore(tmp_path / "letters.sqlite3", "shop").prepare()
    assert not list(tmp_path.iterdir())


def test_a_file_in_a_sticky_folder_is_used(tmp_path: Path) -> None:
    """As in /tmp."""
    tmp_path.chmod(0o1777)
    store = SqliteStore(tmp_path / "letters.sqlite3", "shop")
    store.add(letter())
    assert store.count() == 1


LOOKER = """
import sys
from pathlib import Path
from walex_celery.dead_letters.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]), "shop")
print(store.count())
store.close()
"""


def test_a_second_store_of_the_same_process_loses_no_letter(tmp_path: Path) -> None:
    """Metrics count letters while the producer stores them; then the command lists them.

    POSIX ends all locks of a process on a file with the first of its descriptors that is closed. A command that finds
    none removes the file's -wal, and what the producer stored afterwards was gone with it.
    """
    path = tmp_path / "letters.sqlite3"
    store, counting = SqliteStore(path, "shop"), SqliteStore(path, "shop")
    store.add(letter())
    assert counting.count() == 1
    counting.close()

    def count_elsewhere() -> int:
        return int(subprocess.check_output([sys.executable, "-c", LOOKER, str(path)], text=True))

    assert count_elsewhere() == 1
    store.add(letter(handler="shop.other"))
    assert count_elsewhere() == 2
