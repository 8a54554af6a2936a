"""Postgres as Debian and Ubuntu install it, and a shell in which their commands reach it."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

from walex_celery.testing.servers import Postgres

#: postgresql-common's pg_hba.conf, but for its comments.
PG_HBA = """
local   all             postgres                                peer{map}
local   all             all                                     peer{map}
host    all             all             127.0.0.1/32            scram-sha-256
host    all             all             ::1/128                 scram-sha-256
local   replication     all                                     peer{map}
host    replication     all             127.0.0.1/32            scram-sha-256
host    replication     all             ::1/128                 scram-sha-256
"""


class DebianPostgres(Postgres):
    """A server whose ``pg_hba.conf`` and ``wal_level`` are Debian's; ``postgres`` has no way in by TCP."""

    def __init__(self) -> None:
        super().__init__(settings={"wal_level": "replica"})

    def prepare(self) -> None:
        """As Debian's package does: peer authentication for local users."""
        super().prepare()
        self._configure({"unix_socket_directories": str(self.folder)})
        # The user whose server it is is called postgres there.
        owner = self.user or pwd.getpwuid(os.geteuid()).pw_name
        is_named = owner == "postgres"
        (self.data_dir / "pg_hba.conf").write_text(PG_HBA.format(map="" if is_named else " map=debian"))
        (self.data_dir / "pg_ident.conf").write_text(f"debian {owner} postgres\n")

    def ready(self) -> bool:
        """Whether it answers."""
        return not subprocess.run(
            [self.bin_dir / "pg_isready", "-q", "-h", self.folder, "-p", str(self.port)], check=False
        ).returncode


class Shell:
    """Bash in *folder*, with ``sudo``, ``systemctl`` and ``celery`` that stand for the host's.

    Args:
        folder: where commands are run.
        server: what local connections lead to, and what ``systemctl restart postgresql`` restarts.
    """

    def __init__(self, folder: Path, server: Postgres) -> None:
        self.folder = folder
        self._server = server
        self._ask, self._answer = folder / "ask", folder / "answer"
        os.mkfifo(self._ask)
        os.mkfifo(self._answer)
        become = f"runuser -u {server.user} --" if server.user else ""
        self._program("sudo", f'if [ "$1" = -u ]; then shift 2; exec {become} "$@"; fi; exec "$@"')
        self._program("systemctl", f'echo "$@" > {self._ask}; read -r answer < {self._answer}; exit $answer')
        self._program("celery", f'exec {sys.executable} -m celery "$@"')
        package = Path(__file__).parents[2]
        self.environment = {
            "PATH": f"{folder / 'bin'}:{server.bin_dir}:{os.environ['PATH']}",
            "PYTHONPATH": f"{folder}:{package}",
            "PGHOST": str(server.folder),
            "PGPORT": str(server.port),
            "HOME": str(folder),
        }
        self._manager = threading.Thread(target=self._manage, daemon=True)
        self._manager.start()

    def _program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def _manage(self) -> None:
        """Be the service manager: for one command."""
        command = self._ask.read_text()
        known = command == "restart postgresql\n"
        if known:
            self._server.stop("fast")
            self._server.start()
        self._answer.write_text(f"{int(not known)}\n")

    def run(self, lines: str, *, stdin: str = "") -> str:
        """Run *lines* one after the other, as entered by hand; what they export is there in the next call.

        Returns what they have written.
        """
        variables = self.folder / "variables"
        script = f"set -e\n{dedent(lines)}\nenv -0 > {variables}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        self.environment |= _parsed(variables.read_text())
        return done.stdout


def _parsed(text: str) -> Mapping[str, str]:
    return dict(entry.split("=", 1) for entry in text.split("\0") if entry)
