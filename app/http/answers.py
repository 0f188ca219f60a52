"""Sends an answer in pieces, and disconnects a client that reads it too slowly.

A piece is made when the client has taken the one before it. A client has a number of seconds to read each MiB of its
answer, and as many for the rest at the end. A client that reads a byte a minute is disconnected like one that reads
nothing. Only the time counts in which the server waits for the client, so a stream may be silent for any time.

uvicorn waits before it writes a message and not afterwards. A large body in one message would be copied to the
transport's buffer and count as sent. `Connection` makes the transport report every byte that is not sent yet.
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
RAW = 24 << 10  # bytes of a file that are encoded in base64 at a time; a multiple of 3, so that no part needs padding
PART = 1 << 20  # bytes of an answer for which a client has its seconds
JSON = "application/json"
EMPTY = b'"b64_json":""'


class Connection:
    """The connection of an answer, for what ASGI has no way to do. cycle: uvicorn's request and response."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        cycle.transport.set_write_buffer_limits(high=0)  # so that `taken` waits for all bytes

    @property
    def gone(self) -> bool:
        """Whether the client has left before the end of the answer."""
        return self._cycle.disconnected

    async def taken(self) -> None:
        """Wait until the operating system has taken all that was sent, or the connection is lost."""
        await self._cycle.flow.drain()

    def abort(self) -> None:
        """Cut the connection, and drop what the client has not taken."""
        reset(self._cycle.transport)


class Sender:
    """ASGI's `send` of one answer. It sends pieces, waits for the client, and disconnects a client that is too slow.

    seconds: the time that a client has for each MiB. connection: None under another server than uvicorn. head: whether
    the body is left out, as for HEAD. cut: why the answer was given up; None if it was not.
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
        self._sent = 0  # bytes of the current MiB
        self._waited = 0.0  # seconds of waiting for the current MiB
        self._last = 0  # bytes of the last piece

    async def __call__(self, message: Message) -> None:
        """Send a message. Unless it is the last one, wait until the client has taken it.

        Raises ReaderTooSlow, and ClientGone if the client left before the last message.
        """
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        body, more = (b"" if self._head else message.get("body", b"")), message.get("more_body", False)
        for start in range(0, max(len(body), 1), PIECE):
            end = start + PIECE
            await self._piece(body[start:end], more or end < len(body))

    async def end(self) -> None:
        """Wait until the client has taken the last piece, too. If it does not, `cut` says why.

        Sending the last piece must not wait for this. uvicorn's receive() reports a disconnect once the last piece is
        sent, and Starlette then cancels the answer.
        """
        if self.cut is not None or self._connection is None:
            return
        try:
            with self._budget.passing(self._last):
                await self._in_time(self._connection.taken())
        except ReaderTooSlow:
            pass
        except asyncio.CancelledError:  # the server ends and waits no longer
            await self.give_up(Draining("the server is shutting down"))

    async def give_up(self, error: DalleError) -> None:
        """Cut an answer that has begun. error: why."""
        self.cut = error
        if self._connection is not None:
            self._connection.abort()
            await asyncio.sleep(0)  # uvicorn notices the cut in this turn, so it does not log an unfinished answer

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
            await asyncio.sleep(0)  # other tasks get their turn, however fast the client reads

    async def _one(self, body: bytes, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        if more and self._connection is not None:
            await self._connection.taken()

    async def _in_time(self, sending: Coroutine[Any, Any, None]) -> None:
        """Wait for the client until its seconds are used up. Raises ReaderTooSlow."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds - self._waited):
                await sending
        except TimeoutError:
            slow = ReaderTooSlow(f"the client read less than 1 MiB of its answer in {self._seconds:g} s")
            await self.give_up(slow)
            raise slow from None
        finally:
            self._waited += time.monotonic() - began


class Writer:
    """Collects small parts of a body into messages. A file is encoded in base64 part by part, never as a whole."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held = bytearray()

    async def write(self, text: bytes) -> None:
        """Send these bytes, now or together with later ones."""
        if self._held and len(self._held) + len(text) > PIECE:
            await self.flush()
        self._held += text

    async def file(self, data: bytes) -> None:
        """Send a file in base64."""
        for start in range(0, len(data), RAW):
            await self.write(base64.b64encode(data[start : start + RAW]))

    async def flush(self, more: bool = True) -> None:
        """Send what was collected. more: whether more of the answer comes."""
        body, self._held = bytes(self._held), bytearray()
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


class PicturesAnswer(Response):
    """JSON with pictures in it.

    texts: the JSON before, between and after the pictures, one text more than there are pictures.
    The length is known at the start. A file that does not exist yet is made when its turn comes, and is let go when
    the client has taken it.
    """

    def __init__(self, texts: Sequence[bytes], pictures: Sequence[Picture], headers: dict[str, str]) -> None:
        super().__init__(headers=headers, media_type=JSON)
        length = sum(map(len, texts)) + sum(base64_length(picture.size) for picture in pictures)
        self.headers["Content-Length"] = str(length)
        self._texts = texts
        self._pictures = pictures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002, ASGI's
        """Send the answer."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        writer = Writer(send)
        for text, picture in zip(self._texts, self._pictures, strict=False):
            await writer.write(text)
            await writer.file((await picture.file()).data)
            picture.let_go()
        await writer.write(self._texts[-1])
        await writer.flush(more=False)


def base64_length(size: int) -> int:
    """Bytes that a file of `size` bytes has in base64."""
    return 4 * ((size + 2) // 3)


def around_pictures(text: str) -> list[bytes]:
    """Cut a JSON text at every empty b64_json, into the parts before, between and after the pictures, in UTF-8.

    No string of the JSON can look like an empty b64_json, because its quotation marks have backslashes before them.
    JSON holds no byte 0, so the text can be cut at one.
    """
    return text.encode().replace(EMPTY, EMPTY[:-1] + b"\0" + EMPTY[-1:]).split(b"\0")
