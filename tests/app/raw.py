"""Sends bytes to a live server and reads its bytes. So a test can send requests that no client library would send."""

from __future__ import annotations

import contextlib
import re
import socket
from dataclasses import dataclass

import httpx

from tests.app.live import Live

SECONDS = 60.0  # after which a server that says nothing fails the test


@dataclass(frozen=True)
class Answered:
    """An answer as it came. headers: their names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes


def connect(server: Live) -> socket.socket:
    """A connection to the server; waits until it listens."""
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port or 0), timeout=SECONDS)


def read_to_end(connection: socket.socket) -> bytes:
    """All that the server says until it closes the connection. Raises TimeoutError if it does not."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """What the server says, the last of it `end`."""
    data = b""
    while not data.endswith(end):
        more = connection.recv(1 << 16)
        assert more, f"closed after {data!r}"
        data += more
    return data


def closed(connection: socket.socket) -> bool:
    """Whether the server has closed the connection and said nothing. Waits for nothing."""
    connection.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        try:
            return connection.recv(1) == b""
        except ConnectionResetError:
            return True
    return False


def talk(server: Live, data: bytes) -> list[Answered]:
    """The answers to these bytes, until the server closes the connection."""
    with connect(server) as connection:
        connection.sendall(data)
        return answers(read_to_end(connection))


def answers(data: bytes) -> list[Answered]:
    """The answers in `data`, which are complete, have Content-Length, and follow one another."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(re.fullmatch(r"HTTP/1\.1 ([1-5]\d\d) .*", first)[1])  # type: ignore[index]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        assert len(data) >= length, "an answer is cut short"
        found.append(Answered(status, headers, data[:length]))
        data = data[length:]
    return found
