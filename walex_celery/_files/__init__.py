"""Files that hold row data, and their folders: of this user alone, and never reached through another user's link.

Whoever may write to a folder can put another file, or a symbolic link, in place of one that is in it. So a folder is
made with mode 0700, and one that exists is checked before anything in it is opened. A file is opened without following
a link, and checked again afterwards.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import stat
from functools import cache
from pathlib import Path
from typing import Final

logger = logging.getLogger("walex_celery.files")

#: Who owns what only this user, or the administrator, can change.
_ROOT: Final = 0
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class UnsafePath(OSError):
    """Another user could read or replace what is there. Its ``strerror`` names the path and has the fix."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(errno.EPERM, f"{what}\n  fix: {fix}")


def prepare_folder(folder: Path, *, shared: bool = False) -> None:
    """Make *folder*, and those above it that are missing, with mode 0700; check it if it exists.

    Folders above it are only warned of: who may write there can take *folder* away, but not put another in its place
    that passes this check.

    Args:
        folder: an absolute path.
        shared: whether it may be one like /tmp, where everyone may make files but only their owner may replace them.

    Raises:
        UnsafePath: another user may write to it, or owns it or the symbolic link to it.
        OSError: it can't be made, or is no folder.
    """
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        try:
            missing.mkdir(mode=0o700)
        except FileExistsError:
            continue  # by another process meanwhile; or a link that leads nowhere, which the check refuses
    _check_folder(folder, shared=shared)
    for parent in folder.resolve().parents:
        _warn_of_parent(parent, folder)


def _check_folder(folder: Path, *, shared: bool) -> None:
    name = shlex.quote(str(folder))
    link = folder.lstat()
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (os.geteuid(), _ROOT):
        raise UnsafePath(
            f"{folder} is a symbolic link of another user (uid {link.st_uid})",
            f"name another folder, or remove the link: rm {name}",
        )
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder")
    own = f"chown {os.geteuid()} {name}; chmod 0700 {name}"
    inside = ", or name a folder inside it: that is made with mode 0700"
    if status.st_uid not in (os.geteuid(), _ROOT):
        raise UnsafePath(f"{folder} belongs to another user (uid {status.st_uid})", own)
    if status.st_mode & _OTHERS_MAY_WRITE and not (shared and status.st_mode & stat.S_ISVTX):
        raise UnsafePath(
            f"{folder} can be written by {_writers(status)} (mode {stat.S_IMODE(status.st_mode):04o})",
            (f"chmod go-w {name}" if status.st_uid == os.geteuid() else own) + inside,
        )


@cache  # once: folders are prepared again and again
def _warn_of_parent(parent: Path, folder: Path) -> None:
    status = parent.stat()
    name = shlex.quote(str(parent))
    if status.st_uid not in (os.geteuid(), _ROOT):
        who, fix = f"its owner (uid {status.st_uid})", f"chown root {name}, or name another folder"
    elif status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        who, fix = f"every user of this host (mode {stat.S_IMODE(status.st_mode):04o})", f"chmod o-w {name}"
    else:
        return
    logger.warning("%s can be moved away by %s, through %s\n  fix: %s", folder, who, parent, fix)


def _writers(status: os.stat_result) -> str:
    return "every user of this host" if status.st_mode & stat.S_IWOTH else f"its group (gid {status.st_gid})"


def open_private(path: Path, flags: int) -> int:
    """Open a file that is this user's alone, or make it so with mode 0600; returns the descriptor.

    Args:
        path: in a folder that was prepared.
        flags: of :func:`os.open`; nothing of the file is changed before it was checked, so ``O_TRUNC`` is refused.

    Raises:
        UnsafePath: it is a symbolic link, no regular file, another user's, or may be written by others.
        OSError: it can't be opened.
    """
    if flags & os.O_TRUNC:
        raise ValueError("O_TRUNC would act before the check: use ftruncate, or O_EXCL")
    try:
        # Without O_NONBLOCK, a pipe in its place would be waited for.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise _link(path) from error
        raise
    try:
        status = os.fstat(descriptor)
        _check_file(path, status)
        if status.st_mode & _OTHERS:
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_private(path: Path) -> os.stat_result | None:
    """Check a file without opening it, and make its mode 0600; its status, or ``None`` if there is none.

    For files that another library opens by their names: SQLite's locks end when any descriptor of the file is closed.

    Raises:
        UnsafePath: as :func:`open_private` does.
        OSError: it can't be looked at.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(status.st_mode):
        raise _link(path)
    _check_file(path, status)
    if status.st_mode & _OTHERS:
        path.chmod(0o600)
    return status


def _check_file(path: Path, status: os.stat_result) -> None:
    name = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise UnsafePath(f"{path} is not a regular file", f"move it away: mv {name} {name}.old")
    if status.st_uid != os.geteuid():
        raise UnsafePath(
            f"{path} belongs to another user (uid {status.st_uid}), and this is uid {os.geteuid()}",
            f"run this as the file's owner, or: chown {os.geteuid()} {name}",
        )
    if status.st_mode & _OTHERS_MAY_WRITE:
        raise UnsafePath(
            f"{path} can be written by {_writers(status)} (mode {stat.S_IMODE(status.st_mode):04o})",
            f"chmod 0600 {name}",
        )


def _link(path: Path) -> UnsafePath:
    return UnsafePath(
        f"{path} is a symbolic link, which is not followed",
        f"put the file itself there, or remove the link: rm {shlex.quote(str(path))}",
    )


def sync_folder(folder: Path) -> None:
    """Have the names in *folder* on the disk.

    Raises:
        OSError: the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
