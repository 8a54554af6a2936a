"""What the servers need from the operating system: ports, users, processes."""

from __future__ import annotations

import os
import pwd
import random
import socket
from pathlib import Path

from walex_celery.errors import WalExError

# Below the ephemeral range (32768 and up on Linux): a client's outgoing connection can't take the port
# between a kill and a restart, nor can a client that retries connect to itself.
_PORTS = range(20_000, 32_000)


class ServerUnavailable(WalExError):
    """A test server is not installed, or did not start; the message has the fix or the server's log."""


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1, outside the ephemeral range."""
    # Not random's seeded generator: two test runs with the same seed would try the same ports.
    generator = random.SystemRandom()
    for _ in range(200):
        port = generator.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerUnavailable(f"no free TCP port between {_PORTS.start} and {_PORTS.stop}")


def unprivileged_user(*names: str) -> str | None:
    """Return the first of ``names`` that this system has if we are root, else ``None`` (stay who we are)."""
    if os.geteuid() != 0:
        return None
    for name in (*names, "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise ServerUnavailable(f"running as root, and there is no user of {', '.join(names)} to run a server as")


def processes_in(folder: Path) -> list[int]:
    """Return the pids of living processes whose working directory is in ``folder``.

    So a server's children are found although they are in sessions of their own (Postgres) or have lost
    their parent. Linux only; elsewhere the list is empty, and children are left to notice for themselves.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                found.append(int(entry.name))
        except OSError:  # Gone, a zombie, or another user's.
            continue
    return found
