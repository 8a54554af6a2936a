"""A real RabbitMQ broker, from the system's packages, isolated from any others."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import quote, unquote

from walex_celery.testing._process import Server, StopMode
from walex_celery.testing._system import ServerUnavailable, free_port, unprivileged_user

# Debian's /usr/sbin/rabbitmq-server insists on being root or rabbitmq; the script behind it does not.
_SCRIPTS = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin")


class _PortMapper(Server):
    """Erlang's port mapper (epmd), by which rabbitmqctl finds the port of a node."""

    name: ClassVar[str] = "epmd"
    stop_signals: ClassVar[Mapping[StopMode, signal.Signals]] = {
        "fast": signal.SIGTERM,
        "immediate": signal.SIGKILL,
    }

    def prepare(self) -> None:
        """Do nothing: it keeps no data."""

    def command(self) -> Sequence[str | Path]:
        """Run it in the foreground, listening on this machine only."""
        return ["epmd", "-port", str(self.port), "-address", "127.0.0.1"]

    def ready(self) -> bool:
        """Whether it accepts connections."""
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


class RabbitMQ(Server):
    """A RabbitMQ node with its own name, ports, folders, cookie and port mapper."""

    name: ClassVar[str] = "RabbitMQ"
    stop_signals: ClassVar[Mapping[StopMode, signal.Signals]] = {
        "fast": signal.SIGTERM,
        "immediate": signal.SIGKILL,
    }
    deadline_seconds: ClassVar[float] = 120.0

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        script = shutil.which("rabbitmq-server", path=os.pathsep.join((*_SCRIPTS, os.environ["PATH"])))
        if script is None or shutil.which("epmd") is None:
            raise ServerUnavailable("RabbitMQ is not installed: apt-get install rabbitmq-server")
        super().__init__(user=unprivileged_user("rabbitmq"))
        self._scripts = Path(script).parent
        self._port_mapper = _PortMapper(user=self.user)
        self._starts_seen = 0
        self._dist_port = free_port()
        self.node = f"walex-{self.port}@localhost"
        self.settings = {
            "listeners.tcp.default": f"127.0.0.1:{self.port}",
            "log.console": "true",
            "log.console.level": "info",
            "log.file": "false",
            # The disk is shared with other processes: its alarm would block publishers at random.
            "disk_free_limit.absolute": "10MB",
            **(settings or {}),
        }

    def prepare(self) -> None:
        """Write the configuration and a cookie of its own."""
        self._write(self.folder / "rabbitmq.conf", "".join(f"{k} = {v}\n" for k, v in self.settings.items()))
        self._write(self.folder / "enabled_plugins", "[].\n")
        self._write(self.folder / ".erlang.cookie", secrets.token_hex(16)).chmod(0o400)

    def environment(self) -> dict[str, str]:
        """Keep the node off /etc/rabbitmq, /var/lib/rabbitmq and the machine's own port mapper."""
        return {
            **super().environment(),
            # rabbitmqctl is written in Elixir, which complains about anything else.
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "no-rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.folder / "node.pid"),
            "ERL_EPMD_PORT": str(self._port_mapper.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            # Makes the script replace itself by the Erlang machine, so that our pid is the broker's.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def command(self) -> Sequence[str | Path]:
        """Run the node in the foreground."""
        return [self._scripts / "rabbitmq-server"]

    def ready(self) -> bool:
        """Whether the node has logged that its start is complete (it accepts connections earlier)."""
        return self._starts() > self._starts_seen

    def _starts(self) -> int:
        return self.log().count("Server startup complete")

    def start(self) -> Self:
        """Start the node's own port mapper, then the node."""
        self._starts_seen = self._starts()
        self._port_mapper.start()
        return super().start()

    def close(self) -> None:
        """Stop node and port mapper, and remove the node's folder."""
        super().close()
        self._port_mapper.close()

    def url(self, vhost: str = "/") -> str:
        """Return an ``amqp://`` URL of a virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def ctl(self, *args: str) -> str:
        """Run ``rabbitmqctl`` against the node and return what it prints."""
        return self.run(self._scripts / "rabbitmqctl", "--quiet", "--node", self.node, *args)

    def create_vhost(self, name: str | None = None) -> str:
        """Create a virtual host (a random name unless given) and return its URL."""
        name = name or f"vhost_{secrets.token_hex(6)}"
        self._change_vhosts(create=[name])
        return self.url(name)

    def recycle_vhosts(self, urls: Sequence[str], count: int) -> list[str]:
        """Delete the virtual hosts of ``urls`` with their connections, and create ``count`` new ones.

        For tests that each need their own: any call of rabbitmqctl takes 0.4 s, so one does it all.
        """
        names = [f"vhost_{secrets.token_hex(6)}" for _ in range(count)]
        self._change_vhosts(create=names, delete=[unquote(url.rsplit("/", 1)[1]) for url in urls])
        return [self.url(name) for name in names]

    def _change_vhosts(self, *, create: Sequence[str], delete: Sequence[str] = ()) -> None:
        self.ctl(
            "eval",
            'By = <<"walex">>, All = <<".*">>, User = <<"guest">>,'
            f"[rabbit_vhost:delete(V, By) || V <- {_erlang_list(delete)}],"
            f"[begin ok = rabbit_vhost:add(V, By),"
            " ok = rabbit_auth_backend_internal:set_permissions(User, V, All, All, All, By)"
            f" end || V <- {_erlang_list(create)}], ok.",
        )


def _erlang_list(names: Sequence[str]) -> str:
    binaries = []
    for name in names:
        if not name.isascii() or not name.isprintable() or set(name) & set('"\\'):
            raise ValueError(f"not a name for a virtual host: {name!r}")
        binaries.append(f'<<"{name}">>')
    return f"[{', '.join(binaries)}]"
