"""A real Valkey server that keeps what it has confirmed."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

from walex_celery.testing._binaries import valkey_server
from walex_celery.testing._process import Server, StopMode

if TYPE_CHECKING:
    from redis import Redis


class Valkey(Server):
    """A Valkey server on 127.0.0.1 with an append-only file, fsynced at each write by default.

    ``settings`` are lines of ``valkey.conf``; ``password`` is asked of clients if given.
    """

    #: How many database numbers it has.
    databases: ClassVar[int] = 256

    name: ClassVar[str] = "Valkey"
    stop_signals: ClassVar[Mapping[StopMode, signal.Signals]] = {
        "fast": signal.SIGTERM,
        "immediate": signal.SIGKILL,
    }

    def __init__(
        self,
        *,
        append_only: bool = True,
        password: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.password = password
        self.settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "databases": str(self.databases),
            "save": '""',
            "appendonly": "yes" if append_only else "no",
            "appendfsync": "always",
            **({"requirepass": _quoted(password)} if password else {}),
            **(settings or {}),
        }

    def prepare(self) -> None:
        """Write the configuration; on the command line, the password would show in ``ps``."""
        self._write(self.folder / "valkey.conf", "".join(f"{k} {v}\n" for k, v in self.settings.items()))

    def command(self) -> Sequence[str | Path]:
        """Run the server in the foreground."""
        return [valkey_server(), self.folder / "valkey.conf"]

    def ready(self) -> bool:
        """Whether it answers a ping (it answers LOADING while it reads its file)."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def url(self, db: int = 0) -> str:
        """Return a ``redis://`` URL of database number ``db``, with the password if there is one."""
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/{db}"

    def client(self, db: int = 0) -> Redis:
        """Return a redis-py client (needs the extra ``redis``)."""
        from redis import Redis

        return Redis.from_url(self.url(db))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
