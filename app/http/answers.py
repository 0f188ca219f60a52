"""How an answer leaves: in pieces, each taken by the client before the next one is made, and in time.

A client gets a number of seconds for every MiB of its answer, and for the rest of it. That is a floor of speed, too: a
client that takes a byte a minute is cut like one that takes none. Only the seconds in which the client is waited for
count, so a stream may be silent for as long as it likes.

uvicorn waits before it writes and not after, and writes whatever it is given, so a large body in one message would be
copied to the transport's buffer and count as sent. `Connection` asks the transport to tell of every byte that is left.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.http.budget import Claim
from app.http.connections import reset
from app.http.errors import ClientGone, ReaderTooSlow
from model.errors import DalleError, Draining

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    from app.http.painting import Picture

PIECE = 128 << 10  # bytes of a message, at most
RAW = 24 << 10  # bytes that are made base64 at a time; a multiple of 3, so that the parts fit together
PART = 1 << 20  # bytes of an answer for which a client gets its seconds
JSON = "application/json"
EMPTY = b'"b64_json":""'


class Connection:
    """What an answer needs to know of its connection, which ASGI has no words for. cycle: uvicorn's."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        cycle.transport.set_write_buffer_limits(high=0)  # so that `taken` waits for all of it

    @property
    def gone(self) -> bool:
        """Whether the client has left before the end of the answer."""
        return self._cycle.disconnected

    async def taken(self) -> None:
        """Wait until the operating system has taken all that was sent, or the connection is lost."""
        await self._cycle.flow.drain()

    def abort(self) -> None:
        """Cut it, and forget what was sent and is not taken."""
        reset(self._cycle.transport)


class Sender:
    """ASGI's `send` of one answer, which keeps the module's promises.

    seconds: for every MiB. connection: None under another server than uvicorn. head: whether the body is not wanted.
    cut: why the answer was given up, once it was.
    """

    def __init__(
        self, send: Send, connection: Connection | None, claim: Claim, seconds: float, head: bool = False
    ) -> None:
        self.cut: DalleError | None = None
        self._send = send
        self._connection = connection
        self._budget = claim.budget
        self._seconds = seconds
        self._head = head
        self._sent = 0  # bytes of the present MiB
        self._waited = 0.0  # seconds, for these
        self._last = 0  # bytes of the last piece

    async def __call__(self, message: Message) -> None:
        """Send a message, and wait until the client has taken it unless it is the last one.

        Raises ReaderTooSlow, and ClientGone in mid-answer.
        """
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        body, more = (b"" if self._head else message.get("body", b"")), message.get("more_body", False)
        for start in range(0, max(len(body), 1), PIECE):
            end = start + PIECE
            await self._piece(body[start:end], more or end < len(body))

    async def end(self) -> None:
        """Wait until the client has taken the last piece, too. `cut` tells if it has not.

        Not a part of sending it: then receive() says at once that there is nothing to come, for which Starlette's
        answers stop whatever they do.
        """
        if self.cut is not None or self._connection is None:
            return
        try:
            with self._budget.passing(self._last):
                await self._in_time(self._connection.taken())
        except ReaderTooSlow:
            pass
        except asyncio.CancelledError:  # by the server, which ends and waits no longer
            self.cut = Draining("the server is shutting down")
            self._connection.abort()

    async def _piece(self, body: bytes, more: bool) -> None:
        if self.cut is None and more and self._connection is not None and self._connection.gone:
            self.cut = ClientGone("the client left in the middle of its answer")
        if self.cut is not None:
            raise self.cut
        with self._budget.passing(len(body)):
            await self._in_time(self._one(body, more))
        self._last = len(body)
        self._sent += len(body)
        if self._sent >= PART:
            self._sent, self._waited = self._sent % PART, 0.0
        if more:
            await asyncio.sleep(0)  # a client that takes all at once leaves others their turn

    async def _one(self, body: bytes, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        if more and self._connection is not None:
            await self._connection.taken()

    async def _in_time(self, sending: Coroutine[Any, Any, None]) -> None:
        """Wait for the client, if it has any of its seconds left. Raises ReaderTooSlow."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds - self._waited):
                await sending
        except TimeoutError:
            self.cut = ReaderTooSlow(f"the client took less than 1 MiB of its answer in {self._seconds:g} s")
            if self._connection is not None:
                self._connection.abort()
                await asyncio.sleep(0)  # so that the server notes it, and misses no end of the answer
            raise self.cut from None
        finally:
            self._waited += time.monotonic() - began


class Writer:
    """Puts small parts of a body together to messages, and files to base64 part by part, never all at once."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held = bytearray()

    async def write(self, text: bytes) -> None:
        """Send these bytes, perhaps with later ones."""
        if self._held and len(self._held) + len(text) > PIECE:
            await self.flush()
        self._held += text

    async def file(self, data: bytes) -> None:
        """Send a file in base64."""
        for start in range(0, len(data), RAW):
            await self.write(base64.b64encode(data[start : start + RAW]))

    async def flush(self, more: bool = True) -> None:
        """Send what is left. more: of the answer to come."""
        body, self._held = bytes(self._held), bytearray()
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


class PicturesAnswer(Response):
    """JSON with pictures in it. texts: what stands before, between and after them, so there is one more.

    Its length is known at the start; a picture's file is made, if nobody holds it, when its turn has come, and let go
    once the client has taken it.
    """

    def __init__(self, texts: Sequence[bytes], pictures: Sequence[Picture], headers: dict[str, str]) -> None:
        super().__init__(headers=headers, media_type=JSON)
        length = sum(map(len, texts)) + sum(base64_length(picture.size) for picture in pictures)
        self.headers["Content-Length"] = str(length)
        self._texts = texts
        self._pictures = pictures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002, ASGI's
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        writer = Writer(send)
        for text, picture in zip(self._texts, self._pictures, strict=False):
            await writer.write(text)
            await writer.file((await picture.file()).data)
            picture.let_go()
        await writer.write(self._texts[-1])
        await writer.flush(more=False)


def base64_length(size: int) -> int:
    """Bytes of a file of so many bytes in base64."""
    return 4 * ((size + 2) // 3)


def around_pictures(text: str) -> list[bytes]:
    """A JSON text in UTF-8, cut where an empty b64_json stands, into what comes before, between and after pictures.

    No string can look like that: JSON has a backslash before a quotation mark, and no byte 0.
    """
    return text.encode().replace(EMPTY, EMPTY[:-1] + b"\0" + EMPTY[-1:]).split(b"\0")
