"""The cache of server programs: made once, whole, and readable by the user that runs them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Barrier, Thread

import pytest

from walex_celery.testing._binaries import cached, can_run
from walex_celery.testing.servers import Postgres, ServerUnavailable, npm_postgres


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def fill(target: Path) -> None:
    (target / "sub").mkdir(mode=0o700)
    (target / "sub" / "program").touch(mode=0o700)
    (target / "sub" / "data").touch(mode=0o600)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


def test_cached_is_made_once(tmp_path: Path) -> None:
    made: list[Path] = []
    first = cached("key", made.append)
    second = cached("key", made.append)
    assert first == second == tmp_path / "walex-celery" / "key"
    assert len(made) == 1


def test_cached_is_open_to_all_users() -> None:
    assert modes(cached("key", fill)) == {"key": 0o755, "sub": 0o755, "program": 0o755, "data": 0o644}


def test_cached_is_whole_or_absent(tmp_path: Path) -> None:
    def fail(target: Path) -> None:
        fill(target)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        cached("key", fail)
    assert list((tmp_path / "walex-celery").iterdir()) == []


def test_cached_by_two_at_once(tmp_path: Path) -> None:
    both = Barrier(2, timeout=10)
    found: list[Path] = []

    def make(target: Path) -> None:
        fill(target)
        both.wait()

    threads = [Thread(target=lambda: found.append(cached("key", make))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [tmp_path / "walex-celery" / "key"] * 2
    assert [path.name for path in (tmp_path / "walex-celery").iterdir()] == ["key"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as another user")
def test_a_program_that_the_user_may_not_read(tmp_path: Path) -> None:
    program = tmp_path / "closed" / "postgres"
    program.parent.mkdir(mode=0o700)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert can_run(program, None)
    assert not can_run(program, "nobody")
    with pytest.raises(ServerUnavailable, match="set XDG_CACHE_HOME"):
        _ = Postgres(program.parent).bin_dir


def test_an_unknown_major() -> None:
    with pytest.raises(ServerUnavailable, match="known: 14, 15, 16, 17, 18"):
        npm_postgres(9)
