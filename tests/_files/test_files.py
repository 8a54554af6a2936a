"""What other users could read, replace or lead elsewhere is refused before it is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from walex_celery._files import UnsafePath, check_private, open_private, prepare_folder

#: Of no user of this host; what is there seems to be another's.
ANOTHER_UID = 54321


@pytest.fixture
def another_user(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes this process another user, who is not root."""
    return lambda: monkeypatch.setattr(os, "geteuid", lambda: ANOTHER_UID)


@pytest.fixture
def not_root(tmp_path: Path) -> None:
    """What this test makes is of a user that is not root, whose folders are trusted."""
    if os.geteuid() == 0:
        os.chown(tmp_path, 65533, -1)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def lax_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("lax_umask")
def test_what_is_made_is_this_user_s_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    prepare_folder(folder)
    os.close(open_private(folder / "file", os.O_RDWR | os.O_CREAT))

    assert [mode_of(path) for path in (folder.parent, folder, folder / "file")] == [0o700, 0o700, 0o600]


def test_descriptors_are_not_inherited(tmp_path: Path) -> None:
    descriptor = open_private(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("mode", "who"),
    [(0o770, "its group"), (0o707, "every user"), (0o1777, "every user"), (0o2775, "its group")],
)
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, mode: int, who: str) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    folder.chmod(mode)

    with pytest.raises(UnsafePath) as caught:
        prepare_folder(folder)

    assert f"{folder} can be written by {who}" in str(caught.value.strerror)
    assert f"fix: chmod go-w '{folder}', or name a folder inside it" in str(caught.value.strerror)


def test_a_sticky_folder_may_be_shared_and_may_be_a_parent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o1777)

    prepare_folder(tmp_path, shared=True)
    prepare_folder(tmp_path / "spool")

    assert caplog.text == ""


@pytest.mark.usefixtures("not_root")
def test_a_folder_of_another_user_is_refused(tmp_path: Path, another_user: Callable[[], None]) -> None:
    owner = tmp_path.stat().st_uid
    another_user()

    with pytest.raises(UnsafePath, match=rf"another user \(uid {owner}\)") as caught:
        prepare_folder(tmp_path)
    assert f"fix: chown {ANOTHER_UID} {tmp_path}; chmod 0700 {tmp_path}" in str(caught.value.strerror)


def test_a_parent_that_others_may_write_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o777)

    prepare_folder(tmp_path / "spool")
    prepare_folder(tmp_path / "spool")

    assert caplog.text.count(f"fix: chmod o-w {tmp_path}") == 1


def test_a_link_of_ones_own_to_a_folder_is_followed(tmp_path: Path) -> None:
    """/var/lib/walex may lead to a larger disk."""
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("disk")

    prepare_folder(tmp_path / "link")


def test_another_user_s_link_to_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To one of ours, say, in /tmp."""
    (tmp_path / "ours").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("ours")
    real = Path.lstat

    def of_another(path: Path) -> os.stat_result:
        found = list(real(path))
        if path.name == "link":
            found[4] = ANOTHER_UID
        return os.stat_result(found)

    monkeypatch.setattr(Path, "lstat", of_another)
    with pytest.raises(UnsafePath, match=rf"symbolic link of another user \(uid {ANOTHER_UID}\)"):
        prepare_folder(tmp_path / "link")


def open_it(path: Path) -> None:
    os.close(open_private(path, os.O_RDWR | os.O_CREAT))


BOTH = pytest.mark.parametrize("look", [open_it, check_private], ids=["open", "check"])


@BOTH
def test_a_link_is_not_followed(tmp_path: Path, look: Callable[[Path], object]) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    for _ in range(2):
        with pytest.raises(UnsafePath, match="symbolic link, which is not followed"):
            look(link)
        assert not target.exists() or target.read_text() == "another's"
        target.write_text("another's")


@BOTH
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_only_regular_files_are_used(
    tmp_path: Path, look: Callable[[Path], object], make: Callable[[Path], None]
) -> None:
    make(tmp_path / "it")
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        look(tmp_path / "it")


@BOTH
def test_a_file_of_another_user_is_refused(
    tmp_path: Path, look: Callable[[Path], object], another_user: Callable[[], None]
) -> None:
    path, owner = tmp_path / "file", os.geteuid()
    path.touch()
    another_user()
    with pytest.raises(UnsafePath, match=rf"another user \(uid {owner}\), and this is uid {ANOTHER_UID}"):
        look(path)


@BOTH
def test_a_file_that_others_may_write_is_refused_and_one_that_they_may_read_is_closed_to_them(
    tmp_path: Path, look: Callable[[Path], object]
) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o660)
    with pytest.raises(UnsafePath, match=rf"its group .*\n  fix: chmod 0600 {path}"):
        look(path)
    path.chmod(0o644)
    look(path)
    assert mode_of(path) == 0o600


def test_nothing_is_cut_off_before_the_check(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="O_TRUNC"):
        open_private(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    assert check_private(tmp_path / "file") is None
