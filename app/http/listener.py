"""Opens the socket on which a server listens."""

from __future__ import annotations

import socket

from model.errors import DalleError

UNSENT = 1 << 20  # bytes that the system keeps for a client that does not read


class ServerFailed(DalleError):
    """The server could not start, or could not go on. The message is one line."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ServerFailed, which names the address."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # its connections inherit it
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ServerFailed(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener
