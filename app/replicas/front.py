"""The front before the replicas. It passes requests on, and passes one on again if its replica dies. It knows no Ray.

A request gets its seed here. So the next replica paints the same pictures, bit for bit on machines that are alike. An
answer is passed on when it is complete. A stream of events is passed on event by event, and what was told before a
replica's death is not told again.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import aclosing
from typing import Any

from starlette.types import Receive, Scope, Send

from app.http.errors import answer, render
from model.errors import WorkerFailed
from model.inference.requests import SEED_BITS

TIMES = 5  # replicas that a request may lose
PASSED_ON = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path")
STREAM = b"text/event-stream"
IDEMPOTENCY = b"idempotency-key"
JOBS = "/v1/jobs"
Message = MutableMapping[str, Any]
Call = Callable[[dict[str, Any], bytes], AsyncIterator[Message]]
log = logging.getLogger("dalle.front")


class Front:
    """An ASGI application before replicas.

    call: has a replica answer a request; see `app.replicas.replica.Replica.answer`. lost: whether an error of it means
    that the replica is gone. body_bytes: of a body; more are not read, and the replica refuses it.
    """

    def __init__(self, call: Call, lost: Callable[[Exception], bool], body_bytes: int) -> None:
        self._call = call
        self._lost = lost
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        body = await self._body(receive)
        if body is None:
            return
        asked: dict[str, Any] = {name: scope[name] for name in PASSED_ON if name in scope}
        headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        posts_job = scope["method"] == "POST" and scope["path"].rstrip("/").endswith(JOBS)
        if posts_job and not any(name == IDEMPOTENCY for name, _ in headers):
            headers.append((IDEMPOTENCY, secrets.token_hex(16).encode()))  # it makes one job, however often it is sent
        asked |= {"headers": headers, "state": {"seed": secrets.randbits(SEED_BITS)}}
        asked |= {name: tuple(scope[name]) for name in ("client", "server") if scope.get(name)}
        out = _Answer(send)
        for _ in range(TIMES):
            out.begin_again()
            try:
                async with aclosing(self._call(asked, body)) as messages:  # type: ignore[type-var]
                    async for message in messages:
                        await out.take(message)
                await out.end()
                return
            except Exception as error:
                if not self._lost(error):
                    raise
                log.warning("a replica died; its request is given to another one")
        if out.streams:
            raise WorkerFailed("the replicas died one after another")  # the connection is cut: the stream has no end
        said = answer(WorkerFailed("the replicas that painted this request died; it can be sent again"))
        await render(said, scope["path"])(scope, receive, send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The body of the request. None if the client has left."""
        parts: list[bytes] = []
        more = True
        while more and sum(map(len, parts)) <= self._body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        return b"".join(parts)


class _Answer:
    """What the client is sent of the answers of one or more replicas to its request. streams: whether it has begun."""

    def __init__(self, send: Send) -> None:
        self.streams = False
        self._send = send
        self._told: set[str] = set()
        self._start: Message | None = None
        self._parts: list[bytes] = []

    def begin_again(self) -> None:
        """Forget what is not sent: another replica answers."""
        self._start, self._parts = None, []

    async def take(self, message: Message) -> None:
        """A message of a replica."""
        if message["type"] == "http.response.start":
            self._start = message
            kind = dict(message["headers"]).get(b"content-type", b"")
            if kind.startswith(STREAM) and not self.streams:
                self.streams = True
                await self._send(message)
            return
        self._parts.append(bytes(message.get("body", b"")))
        if self.streams:
            whole, end, rest = b"".join(self._parts).rpartition(b"\n\n")
            self._parts = [rest]
            for event in (whole + end).split(b"\n\n")[:-1]:
                await self._tell(event + b"\n\n")

    async def _tell(self, event: bytes) -> None:
        name = _name(event)
        if name is None or name not in self._told:
            await self._send({"type": "http.response.body", "body": event, "more_body": True})
        if name is not None:
            self._told.add(name)

    async def end(self) -> None:
        """The replica has answered all."""
        if not self.streams and self._start is not None:
            await self._send(self._start)
        await self._send({"type": "http.response.body", "body": b"".join(self._parts), "more_body": False})


def _name(event: bytes) -> str | None:
    """Names an event that a second replica repeats, by its kind and its picture. None for what may be told twice."""
    for line in event.split(b"\n"):
        if line.startswith(b"data: {"):
            values = json.loads(line[6:])
            places = [values.get(key) for key in ("type", "index", "partial_image_index", "number")]
            return json.dumps(places) if any(place is not None for place in places[1:]) else None
    return None


async def _live(receive: Receive, send: Send) -> None:
    """The lifespan protocol: nothing is to be done."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
