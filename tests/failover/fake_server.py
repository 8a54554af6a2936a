"""A server that speaks just enough of Postgres' protocol to refuse a connection, or to say which version it is.

For what can't be had in a test: poolers, and majors that no package brings. Source: manual, sections 54.2 and 54.7.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SSL_REQUEST = 80877103
_GSS_REQUEST = 80877104


def error(text: str, code: str) -> bytes:
    """An ErrorResponse of severity FATAL."""
    fields = b"".join(
        kind + value.encode() + b"\0"
        for kind, value in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", code), (b"M", text))
    )
    return _message(b"E", fields + b"\0")


def welcome(version: str) -> bytes:
    """What a server sends that asks for no password."""
    parameters = {
        "server_version": version,
        "server_encoding": "UTF8",
        "client_encoding": "UTF8",
        "DateStyle": "ISO, YMD",
        "standard_conforming_strings": "on",
        "integer_datetimes": "on",
    }
    status = b"".join(_message(b"S", f"{name}\0{value}\0".encode()) for name, value in parameters.items())
    return _message(b"R", struct.pack("!i", 0)) + status + _message(b"Z", b"I")


#: AuthenticationCleartextPassword.
ASKS_FOR_PASSWORD = b"R" + struct.pack("!ii", 8, 3)


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


@contextmanager
def answering(answer: bytes, *, once_logged_in: bytes = b"") -> Iterator[int]:
    """The port of a server that gives *answer* to each startup message.

    Args:
        answer: all that it says, unless it is :data:`ASKS_FOR_PASSWORD`.
        once_logged_in: what it says to whoever gives a password.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=_answer, args=(client, answer, once_logged_in)))
            threads[-1].start()

    threads.append(threading.Thread(target=serve))
    threads[0].start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join()


def _answer(client: socket.socket, answer: bytes, once_logged_in: bytes) -> None:
    with client, client.makefile("rb") as received, suppress(ConnectionError):
        while True:
            begin = received.read(8)
            if not begin:
                return  # it only wanted to know whether a server is here
            length, code = struct.unpack("!ii", begin)
            received.read(length - 8)
            if code not in (_SSL_REQUEST, _GSS_REQUEST):
                break
            client.sendall(b"N")
        client.sendall(answer)
        if answer == ASKS_FOR_PASSWORD and received.read(1) == b"p":
            received.read(struct.unpack("!i", received.read(4))[0] - 4)
            client.sendall(once_logged_in)
        received.read()  # until the client goes
