"""Reads HTTP/1.1 strictly, so that a proxy and this server agree where a request ends.

h11 refuses most malformed requests. Some requests that h11 accepts may be read differently by a proxy in front of the
server (RFC 9112, section 11.2: request smuggling). This module refuses them. It also turns the target of every request
into a path, which is the form that the routes know.
"""

from __future__ import annotations

import re

import h11

from app.http.errors import Answer

MAX_HEAD = 16 * 1024  # bytes of a request line and its headers
MAX_LINES = 200  # of a head; h11 parses a line in about 8 microseconds, all in one turn of the event loop
MANY_CHUNKS, LEAST_BYTES = 256, 64  # the chunks of a body of more than 256 must have 64 bytes on average
ABSOLUTE = re.compile(rb"(?i:https?)://(?P<host>[^/?#@]+)(?P<rest>[/?].*)?")  # RFC 9112, section 3.2.2
END_OF_HEAD = re.compile(rb"\n\r?\n")
CODE = "bad_request"
UNREADABLE = Answer(400, CODE, "the request must be HTTP/1.1, got something that cannot be read")
HEAD_TOO_LARGE = Answer(
    431, CODE, f"the request's line and headers must have at most {MAX_HEAD} bytes and {MAX_LINES} lines together"
)
WRONG_CODING = Answer(501, CODE, "Transfer-Encoding must be chunked, given once, or left out")
TWO_LENGTHS = Answer(400, CODE, "the request must not have both Content-Length and Transfer-Encoding")
OLD_CHUNKED = Answer(400, CODE, "a request of HTTP/1.0 must not have Transfer-Encoding")
WRONG_VERSION = Answer(505, CODE, "the request must be HTTP/1.1 or HTTP/1.0")
NO_HOST = Answer(400, CODE, "the request must have the header Host")
NO_PROXY = Answer(501, CODE, "the method must not be CONNECT: this server is not a proxy")
TINY_CHUNKS = Answer(400, CODE, f"the body's chunks must have at least {LEAST_BYTES} bytes on average")
WRONG_TARGET = Answer(400, CODE, "the request's target must be a path that begins with /, or http://HOST and a path")


class Refused(h11.RemoteProtocolError):
    """A request that h11 accepts and this server refuses. path: the request's target if that is a path, else ""."""

    def __init__(self, answer: Answer, path: str) -> None:
        super().__init__(answer.message, answer.status)
        self.answer = answer
        self.path = path


class StrictConnection(h11.Connection):
    """The server's side of a connection.

    refusal: after an h11.RemoteProtocolError the answer, and the path of the request or "" if it is not known.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD)
        self.refusal = (UNREADABLE, "")
        self._path = ""  # of the request whose body is being read
        self._chunks = self._bytes = 0  # of that body

    @property
    def unread(self) -> bool:
        """Whether a head or a body has begun to arrive and has not ended."""
        return self.their_state is h11.SEND_BODY or bool(self.trailing_data[0])

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event of h11. A request is checked first. Raises h11.RemoteProtocolError."""
        in_head = self.their_state is h11.IDLE
        try:
            if in_head:
                check_head(self.trailing_data[0])
            event = super().next_event()
            if isinstance(event, h11.Request):
                event = checked(event)
                self._path, self._chunks, self._bytes = event.target.decode("ascii"), 0, 0
            elif isinstance(event, h11.Data):
                self._count(event)
            return event
        except Refused as error:
            self.refusal = (error.answer, error.path)
            raise
        except h11.RemoteProtocolError as error:
            hints = {431: HEAD_TOO_LARGE, 501: WRONG_CODING}
            self.refusal = (hints.get(error.error_status_hint, UNREADABLE) if in_head else UNREADABLE, "")
            raise

    def _count(self, data: h11.Data) -> None:
        """Refuse a body in tiny chunks. h11 takes 30 microseconds for a chunk, and one read may bring 40 000 chunks."""
        self._chunks += data.chunk_end  # a chunk that has only begun has not all of its bytes yet
        self._bytes += len(data.data)
        if self._chunks > MANY_CHUNKS and self._bytes < self._chunks * LEAST_BYTES:
            raise Refused(TINY_CHUNKS, self._path)


def check_head(data: bytes) -> None:
    """Raise Refused if the head at the beginning of `data` is too large, before h11 parses it."""
    end = END_OF_HEAD.search(data, 0, MAX_HEAD)
    head = data[: end.end()] if end else data[: MAX_HEAD + 1]
    if len(head) > MAX_HEAD or head.count(b"\n") > MAX_LINES:
        raise Refused(HEAD_TOO_LARGE, "")


def checked(request: h11.Request) -> h11.Request:
    """The request with a path as its target. The target of OPTIONS may be "*". Raises Refused."""
    path = request.target.decode("ascii") if request.target.startswith(b"/") else ""
    names = {name for name, _ in request.headers}
    if not request.http_version.startswith(b"1."):
        raise Refused(WRONG_VERSION, path)
    if b"transfer-encoding" in names and b"content-length" in names:
        raise Refused(TWO_LENGTHS, path)
    if b"transfer-encoding" in names and request.http_version == b"1.0":
        raise Refused(OLD_CHUNKED, path)
    if b"host" not in names and request.http_version != b"1.0":
        raise Refused(NO_HOST, path)
    if request.method == b"CONNECT":
        raise Refused(NO_PROXY, "")
    if path or (request.target, request.method) == (b"*", b"OPTIONS"):
        return request
    if not (absolute := ABSOLUTE.fullmatch(request.target)):
        raise Refused(WRONG_TARGET, "")
    rest = absolute["rest"] or b"/"
    # The host in the target wins over the header Host: RFC 9112, section 3.2.2.
    others = [(name, value) for name, value in request.headers.raw_items() if name.lower() != b"host"]
    return h11.Request(
        method=request.method,
        target=rest if rest.startswith(b"/") else b"/" + rest,
        headers=[(b"Host", absolute["host"]), *others],
        http_version=request.http_version,
    )
