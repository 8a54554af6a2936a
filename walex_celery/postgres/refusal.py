"""Why a connection could not be made, without reading words: a server speaks the language of its ``lc_messages``.

psycopg2 gives no SQLSTATE for a connection that fails, and libpq has it in its text only if it is asked to before the
attempt is over. So the attempt is repeated once, step by step, with libpq's verbosity set to SQLSTATE (manual, section
32.11, PQsetErrorVerbosity). It goes the same way: the same parameters, TLS and authentication.
"""

from __future__ import annotations

import ctypes
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Any, Final, NamedTuple

import psycopg2
from psycopg2 import extensions

_PQERRORS_SQLSTATE: Final = 3
_SQLSTATE: Final = re.compile(r":\s+([0-9A-Z]{5})\s*$", re.MULTILINE)

#: Classes of SQLSTATE (manual, appendix A) that pass by themselves: connection exceptions, among which poolers file
#: their own; insufficient resources; operator intervention, such as a server that starts; system and internal errors.
_TRANSIENT: Final = ("08", "53", "57", "58", "XX")

#: ``SSLRequest`` of the manual's section 54.7. Any server answers it, with one byte, before it knows who asks.
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)


class Refusal(NamedTuple):
    """Why an attempt to connect failed.

    Attributes:
        sqlstate: of the server's answer; ``None`` if it gave none.
        is_transient: whether it may pass by itself: the server starts, is full, or can't be reached.
    """

    sqlstate: str | None
    is_transient: bool


def examine(parameters: Mapping[str, Any], factory: Callable[..., Any] | None, seconds: float) -> Refusal:
    """Why connecting with libpq's *parameters* fails.

    Args:
        parameters: as psycopg2 gets them, with ``host`` and ``port``.
        factory: of the connection; that of a replication connection asks for one.
        seconds: how long each step may take.
    """
    try:
        set_verbosity = ctypes.CDLL(psycopg2._psycopg.__file__).PQsetErrorVerbosity
    except (AttributeError, OSError):
        return Refusal(None, True)  # a psycopg2 that hides its libpq: nothing is known
    set_verbosity.argtypes = [ctypes.c_void_p, ctypes.c_int]
    # Which of several servers is the primary passes; the refusal of any of them does not.
    asked = {name: value for name, value in parameters.items() if name != "target_session_attrs"}
    text = ""
    try:
        with closing(psycopg2.connect(connection_factory=factory, async_=True, **asked)) as connection:
            set_verbosity(connection.pgconn_ptr, _PQERRORS_SQLSTATE)
            _connect(connection, time.monotonic() + seconds)
        return Refusal(None, True)  # it works by now, or takes too long
    except psycopg2.Error as error:
        text = str(error)
    found = _SQLSTATE.findall(text)
    if found:
        return Refusal(found[-1], found[-1].startswith(_TRANSIENT))
    # Without an answer of the server it was the network, or libpq itself that refuses: a certificate, a key file.
    return Refusal(None, not _any_answers(asked, seconds))


def _connect(connection: Any, deadline: float) -> None:
    """Connect as far as possible until *deadline*; raises psycopg2's error if it fails."""
    events = {extensions.POLL_READ: select.POLLIN, extensions.POLL_WRITE: select.POLLOUT}
    while (state := connection.poll()) != extensions.POLL_OK and time.monotonic() < deadline:
        # A new one each time: libpq's descriptor changes from host to host.
        poll = select.poll()
        poll.register(connection.fileno(), events[state])
        poll.poll(max(0.0, deadline - time.monotonic()) * 1000)


def _any_answers(parameters: Mapping[str, Any], seconds: float) -> bool:
    hosts = str(parameters.get("hostaddr") or parameters["host"]).split(",")
    ports = str(parameters["port"]).split(",")
    return any(_answers(host, int(port), seconds) for host, port in zip(hosts, ports, strict=False))


def _answers(host: str, port: int, seconds: float) -> bool:
    """Whether a Postgres server, or a pooler, is there."""
    with suppress(OSError), _socket(host, port, seconds) as opened:
        opened.sendall(_SSL_REQUEST)
        return bool(opened.recv(1))
    return False


def _socket(host: str, port: int, seconds: float) -> socket.socket:
    if not host.startswith("/"):
        return socket.create_connection((host, port), seconds)
    opened = socket.socket(socket.AF_UNIX)
    opened.settimeout(seconds)
    try:
        opened.connect(f"{host}/.s.PGSQL.{port}")
    except OSError:
        opened.close()
        raise
    return opened
